"""The speed benchmark: its reference is the published algorithm, and its figures are what they say."""

from __future__ import annotations

import itertools
import json
from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.diffusion.guidance import guided
from pipeline.diffusion.pixels import as_tensor
from pipeline.diffusion.solver import denoise
from pipeline.errors import JobError
from pipeline.models.assembly import load_stable_diffusion
from pipeline.models.measuring import counted_passes, weight_gradients
from pipeline.models.random_weights import RANDOM_MODELS, random_autoencoder, random_text_encoder, random_unet
from pipeline.models.stable_diffusion import StableDiffusion
from pipeline.quality.speed import machine, reference
from pipeline.quality.speed.bench import Extent, measure_speed
from pipeline.quality.speed.machine import peak_memory
from pipeline.quality.speed.photographs import EDITS, photographs
from pipeline.quality.speed.reference import INNER_ITERATIONS, NullText, null_text
from pipeline.quality.speed.systems import ALONE, IN_BATCHES, PUBLISHED
from pipeline.quality.speed.work import flops_of, row_cost
from tests.small_model import save_small_model

_STEPS = 5


@pytest.fixture(scope="module")
def bundled() -> StableDiffusion:
    """The trained model."""
    return load_stable_diffusion(None, "cpu")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    """Random weights, under which both branches of guidance nearly agree."""
    return load_stable_diffusion(str(save_small_model(tmp_path_factory.mktemp("model"))), "cpu")


def _inverted(model: StableDiffusion, guidance_scale: float, *, stops: bool) -> NullText:
    (photo,) = photographs(1, model.side)
    pixels = as_tensor([photo.pixels])
    return null_text(model, pixels, photo.source_prompt, _STEPS, guidance_scale, stops=stops)


def test_the_reference_leads_back_where_guided_sampling_does_not(bundled: StableDiffusion) -> None:
    """With the learned embeddings, sampling from the inverted noise lands at least twice as near to the image."""
    (photo,) = photographs(1, bundled.side)
    z_0, found = bundled.encode_images(as_tensor([photo.pixels])), _inverted(bundled, 4.0, stops=True)
    schedule, prompts = bundled.schedule(_STEPS), bundled.encode_prompts(["", photo.source_prompt])

    def predict(z: torch.Tensor, step: int) -> torch.Tensor:
        outputs = bundled.predict(z.repeat(2, 1, 1, 1), schedule.timesteps[step - 1].expand(2), prompts)
        return guided(outputs[:1], outputs[1:], 4.0)

    with torch.no_grad():
        plain = denoise(predict, found.noise, schedule)
    errors = [float((z - z_0).square().mean()) for z in (found.z_0, plain)]
    assert errors[0] < errors[1] / 2


def test_the_reference_stops_by_its_loss(small: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    """After one iteration where that is enough, as the loss is looked at once a step was taken; else after ten."""
    monkeypatch.setattr(reference, "_STOP", 10.0)
    assert _inverted(small, 7.5, stops=True).iterations == _STEPS
    assert _inverted(small, 7.5, stops=False).iterations == _STEPS * INNER_ITERATIONS
    monkeypatch.setattr(reference, "_STOP", -10.0)
    assert _inverted(small, 7.5, stops=True).iterations == _STEPS * INNER_ITERATIONS


def test_passes_are_counted_row_by_row(small: StableDiffusion) -> None:
    """Inversion, the constant branch, the learned one and both at the end of a step; backwards only the learned one."""
    with counted_passes(small) as passes:
        _inverted(small, 7.5, stops=False)
    assert passes.forward == {"unet": _STEPS * (1 + 1 + INNER_ITERATIONS + 2), "encoder": 1}
    assert passes.backward == {"unet": _STEPS * INNER_ITERATIONS}
    before = dict(passes.forward)
    small.encode_images(torch.zeros(1, 3, small.side, small.side))
    assert passes.forward == before


def test_gradients_of_weights_cost_more_and_leave_nothing(small: StableDiffusion) -> None:
    """A pass backwards is dearer while the network is not frozen; afterwards it is, and costs what it did."""
    frozen = row_cost(small, small.side)
    with weight_gradients(small):
        thawed = row_cost(small, small.side)
    assert frozen.forward == thawed.forward
    assert frozen.forward["unet"] / 2 < frozen.backward < thawed.backward
    assert row_cost(small, small.side) == frozen


def test_attention_is_counted_on_a_cpu() -> None:
    """Two products per head, whichever kernel makes them."""
    q, k, v = (torch.zeros(1, 4, n, 8) for n in (16, 10, 10))
    products = 2 * (2 * 4 * 16 * 10 * 8)
    assert flops_of(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v)) == products


def test_random_sd15_is_of_stable_diffusions_size() -> None:
    """Parameters of all three networks, and the FLOPs of a prediction at 512 pixels."""
    sizes = RANDOM_MODELS["random-sd15"]
    with torch.device("meta"):
        unet = random_unet(sizes)
        z, timestep, embedding = torch.zeros(1, 4, 64, 64), torch.zeros(1), torch.zeros(1, 77, 768)
        parts = unet, random_autoencoder(sizes), random_text_encoder(sizes, end_token=49_407)
    counts = [sum(p.numel() for p in part.parameters()) for part in parts]
    assert counts == [859_520_964, 83_653_863, 123_060_480]
    with torch.no_grad():
        flops = flops_of(lambda: unet(z, timestep, encoder_hidden_states=embedding))
    assert flops == pytest.approx(803e9, rel=1e-3)


def test_a_peak_is_that_of_its_own_time() -> None:
    """What was held before or is held afterwards does not count."""
    cpu, size = torch.device("cpu"), 200_000_000
    torch.ones(2 * size, dtype=torch.uint8)
    with peak_memory(cpu) as idle:
        pass
    with peak_memory(cpu) as busy:
        torch.ones(size, dtype=torch.uint8)
    assert idle.mb is not None
    assert busy.mb is not None
    assert busy.mb - idle.mb == pytest.approx(size / 1e6, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_machines_rate_is_of_what_torch_counts(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the matrix product or the convolution, whichever does more in a second: on this clock each call takes one."""
    monkeypatch.setattr(machine, "now", partial(next, itertools.count()))
    monkeypatch.setattr(machine, "_MATMUL_REPEATS", 1)
    with FlopCounterMode(display=False) as counted:
        rate = machine.matmul_rate(torch.device("cpu"), dtype, 64)
    done = counted.get_flop_counts()["Global"].values()
    assert len(done) == 2
    assert rate == max(done)


def test_figures_of_every_kind_of_system(small: StableDiffusion) -> None:
    """Seconds, decibels, memory and utilisation of each; a batch gives the pictures that single images do."""
    names = [PUBLISHED, "fast", IN_BATCHES, ALONE]
    lines, saved = list[str](), list[int]()
    report = measure_speed(
        small,
        Extent(images=2, alone_images=1, steps=4),
        names,
        fixed=True,
        say=lines.append,
        save=lambda so_far: saved.append(len(so_far.systems)),
    )
    figures = json.loads(json.dumps(report.as_json()))
    assert list(figures["systems"]) == names
    assert len(lines) == len(names)
    assert saved == [1, 2, 3, 4], "what was measured is not lost where the rest is"
    for name, system in figures["systems"].items():
        assert system["invert_s"] > 0
        assert system["edit_s"] > 0
        assert system["recon_psnr"] > 0
        assert system["peak_mb"] > 0
        assert 0 < system["flops_utilisation"] <= 1
        assert system["images"] == (1 if name in {PUBLISHED, ALONE} else 2)
        assert system["edits"] == len(EDITS) * system["images"]
    assert figures["systems"][IN_BATCHES]["iterations"] == 4 * INNER_ITERATIONS
    assert figures["systems"]["fast"]["iterations"] is None
    assert figures["speedups"].keys() == {"fast", IN_BATCHES}
    assert figures["speedups"]["fast"].keys() == {PUBLISHED}
    assert figures["max_pixel_difference"] <= 1
    assert figures["batch_gain"] > 0
    assert all(f"| {name} |" in report.table() for name in names)


def test_ours_run_compiled_and_peers_as_they_are(small: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are made of the network's calls here, and no code for them, which takes minutes."""
    torch.compiler.reset()
    compiled = dict[str, set[tuple[int, ...]] | None]()
    monkeypatch.setattr(small, "compiled", None)
    monkeypatch.setattr(small, "compile", partial(StableDiffusion.compile, small, "eager"))

    def say(line: str) -> None:
        compiled[line.partition(":")[0]] = None if small.compiled is None else small.compiled._sizes

    report = measure_speed(
        small, Extent(images=1, alone_images=1, steps=4), ["ledits++", IN_BATCHES], fixed=True, compiled=True, say=say
    )
    assert report.compiled
    assert compiled == {"ledits++": None, IN_BATCHES: {tuple(small.encode_images(_blank(small)).shape[1:])}}


def _blank(model: StableDiffusion) -> torch.Tensor:
    return torch.zeros(1, 3, model.side, model.side)


def test_an_unknown_system_is_refused(small: StableDiffusion) -> None:
    """Before anything is measured, with what there is."""
    with pytest.raises(JobError, match=r"expected some of null-text, .*; got nobody"):
        measure_speed(small, Extent(), ["nobody"])
