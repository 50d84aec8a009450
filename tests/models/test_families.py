"""What holds for a model of every family, each of diffusers' real classes: saved small and untrained, and loaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file

from pipeline.diffusion.control import Control
from pipeline.diffusion.guidance import guided
from pipeline.diffusion.schedule import NoiseSchedule
from pipeline.diffusion.solver import denoise, invert
from pipeline.editor import Editor
from pipeline.errors import JobError
from pipeline.methods import METHODS
from pipeline.models import autoencoder
from pipeline.models.assembly import load_backbone
from pipeline.models.autoencoder import Autoencoder
from pipeline.models.backbone import Backbone
from pipeline.models.families import pipeline_class
from pipeline.models.loading import BUNDLED_MODEL, model_fingerprint
from pipeline.models.pooled import packed, unpacked
from pipeline.quality.cases import held_out_cases
from pipeline.settings import EditSettings, InversionSettings
from pipeline.synthesis import EditRequest, Synthesis
from tests.model_folders import FOLDERS, new_autoencoder

UNTRAINED = tuple(FOLDERS)
UNETS = ("sd1", "sd2-v", "sdxl")
POOLED = ("sdxl", "sd3", "sd3-t5")
SOURCE, TARGET = "a photo of a red mug on a wooden table", "a photo of a blue striped mug on a lawn"
HEIGHT, WIDTH = 32, 48
LATENTS = {"sd1": 4, "sd2-v": 4, "sdxl": 4, "sd3": 16, "sd3-t5": 16, "bundled": 6}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder per family."""
    root = tmp_path_factory.mktemp("families")
    return {"bundled": BUNDLED_MODEL} | {name: save(root / name) for name, save in FOLDERS.items()}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, Backbone]:
    """All of them loaded; whoever tests one leaves it as it was."""
    return {name: load_backbone(str(folder), "cpu") for name, folder in folders.items()}


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _picture(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _under(
    model: Backbone, prompt: str, schedule: NoiseSchedule, gain: float = 1.0
) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """The network's output, times a gain, under one prompt."""
    [embedding] = model.encode_prompts([prompt])

    @torch.no_grad()
    def predict(z: torch.Tensor, step: int) -> torch.Tensor:
        timesteps = schedule.timesteps[step - 1].expand(len(z))
        return gain * model.predict(z, timesteps, embedding.expand(len(z), -1, -1))

    return predict


@pytest.mark.parametrize("name", UNTRAINED)
def test_sampling_is_that_of_diffusers_own_pipeline(
    name: str, models: dict[str, Backbone], folders: dict[str, Path]
) -> None:
    """From the same noise to the same picture: prompts, pooled vectors, sizes, timesteps, steps and autoencoder."""
    model, kind = models[name], pipeline_class(str(folders[name]))
    absent = dict.fromkeys(("text_encoder_3", "tokenizer_3")) if name == "sd3" else {}
    pipeline = getattr(diffusers, kind).from_pretrained(folders[name], dtype=torch.float32, **absent)
    pipeline.set_progress_bar_config(disable=True)
    if name in UNETS:
        settings = {"set_alpha_to_one": False, "clip_sample": False}
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, **settings)
    z = _random(1, LATENTS[name], HEIGHT // 2, WIDTH // 2)
    asked = {"height": HEIGHT, "width": WIDTH, "num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "pt"}
    theirs = pipeline(prompt=[SOURCE], latents=z.clone(), **asked).images
    schedule, prompts = model.schedule(3), model.encode_prompts(["", SOURCE])

    @torch.no_grad()
    def predict(z: torch.Tensor, step: int) -> torch.Tensor:
        outputs = model.predict(z.repeat(2, 1, 1, 1), schedule.timesteps[step - 1].expand(2), prompts)
        return guided(outputs[:1], outputs[1:], 3.0)

    ours = model.decode_latents(denoise(predict, z, schedule))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", UNTRAINED)
def test_inversion_undoes_sampling(name: str, models: dict[str, Backbone]) -> None:
    """To rounding, with fixed-point iterations; a tenth of a random network changes as slowly as a trained one."""
    schedule = models[name].schedule(4)
    predict = _under(models[name], SOURCE, schedule, gain=0.1)
    z_0 = _random(2, LATENTS[name], HEIGHT // 2, WIDTH // 2)
    trajectory = invert(predict, z_0, schedule, refine_iterations=8)
    torch.testing.assert_close(denoise(predict, trajectory[-1], schedule), z_0, rtol=0, atol=1e-5)


def test_inversion_nearly_undoes_sampling_with_trained_weights(models: dict[str, Backbone]) -> None:
    """Of the bundled model, in ten steps: three iterations leave an eighth of the error, 1.4 % of the latents' size."""
    model = models["bundled"]
    [case] = held_out_cases(range(1), 64)[:1]
    z_0 = model.encode_images(torch.from_numpy(case.image).permute(2, 0, 1)[None].float() / 255)
    schedule = model.schedule(10)
    predict = _under(model, case.source_prompt, schedule)
    plain, refined = (
        float((denoise(predict, invert(predict, z_0, schedule, k)[-1], schedule) - z_0).square().mean().sqrt())
        for k in (0, 3)
    )
    assert refined < plain / 4
    assert refined < 0.03


@pytest.mark.parametrize("name", [*UNTRAINED, "bundled"])
def test_images_and_latents(name: str, models: dict[str, Backbone]) -> None:
    """Latents have the family's channels, working sizes fit the network, and what comes back is finite pixels."""
    model = models[name]
    width, height = model.working_size(300, 200, model.side)
    assert width > height
    assert (width % model.stride, height % model.stride) == (0, 0)
    pixels = torch.from_numpy(_picture(height, width)).permute(2, 0, 1)[None].float() / 255
    z = model.encode_images(pixels)
    assert z.shape[:2] == (1, LATENTS[name])
    assert model.predict(z, model.schedule(2).timesteps[:1], model.encode_prompts([SOURCE])).shape == z.shape
    decoded = model.decode_latents(z)
    assert decoded.shape == pixels.shape
    assert 0 <= float(decoded.min()) <= float(decoded.max()) <= 1


@pytest.mark.parametrize("name", [*UNTRAINED, "bundled"])
def test_latents_that_take_much_memory_are_decoded_in_parts(
    name: str, models: dict[str, Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of five pictures two at a time, where so many pixels are allowed; they are the same, to rounding."""
    model = models[name]
    z = model.encode_images(torch.rand(5, 3, 8 * model.stride, 12 * model.stride, generator=torch.manual_seed(0)))
    whole, together = model.decode_latents(z), []
    handle = model._pipeline.vae.decoder.register_forward_pre_hook(lambda _, inputs: together.append(len(inputs[0])))
    monkeypatch.setattr(autoencoder, "_TOGETHER", 2 * whole[0, 0].numel() + 1)
    parts = model.decode_latents(z)
    handle.remove()
    assert together == [2, 2, 1]
    torch.testing.assert_close(parts, whole)


@pytest.mark.parametrize("name", [*UNTRAINED, "bundled"])
def test_a_row_does_not_depend_on_its_batch_mates(name: str, models: dict[str, Backbone]) -> None:
    """Two rows with their own latents, timesteps and prompts give what each gives alone."""
    model = models[name]
    z, timesteps = _random(2, LATENTS[name], 16, 24), model.schedule(7).timesteps[[1, 5]]
    prompts = model.encode_prompts([SOURCE, TARGET])
    with torch.no_grad():
        together = model.predict(z, timesteps, prompts)
        alone = [model.predict(z[i : i + 1], timesteps[i : i + 1], prompts[i : i + 1])[0] for i in range(2)]
    assert bool(together.isfinite().all())
    torch.testing.assert_close(together, torch.stack(alone), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", [*UNTRAINED, "bundled"])
def test_half_precision_stays_finite(
    name: str, dtype: str, folders: dict[str, Path], models: dict[str, Backbone]
) -> None:
    """And near to single precision, from the image to the prediction."""
    half, single = load_backbone(str(folders[name]), "cpu", dtype), models[name]
    pixels = torch.from_numpy(_picture()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        outputs = [
            model.predict(model.encode_images(pixels), model.schedule(2).timesteps[1:], model.encode_prompts([SOURCE]))
            for model in (half, single)
        ]
    assert float((outputs[0] - outputs[1]).abs().max()) < 0.1 * float(outputs[1].abs().max())


@pytest.mark.parametrize("name", UNTRAINED)
def test_edits_of_pictures_that_are_not_square(name: str, models: dict[str, Backbone]) -> None:
    """Strength 0 returns the original exactly, and 1 something else that is finite."""
    editor = Editor(models[name])
    pictures = [_picture(40, 70), _picture(90, 50, seed=1)]
    settings = InversionSettings(num_inference_steps=4, max_iterations=2)
    inversions = editor.invert(pictures, source_prompts=SOURCE, settings=settings)
    for picture, [unchanged] in zip(pictures, editor.edit(inversions, prompt=TARGET, strength=0), strict=True):
        assert np.array_equal(np.asarray(unchanged), picture)
    requests = [EditRequest(i, TARGET, hold_structure=0) for i in range(2)]
    for made, picture in zip(editor.edit_rows(inversions, requests, EditSettings(mask="none")), pictures, strict=True):
        assert isinstance(made, Synthesis)
        assert made.edited.shape == (*editor.working_size(*picture.shape[1::-1])[::-1], 3)
        assert np.isfinite(made.edited).all()
        assert np.abs(made.edited - made.reconstruction).max() > 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_every_method_edits_along_a_flow(method: str, models: dict[str, Backbone]) -> None:
    """Pure noise has no signal to divide by; nothing becomes infinite for it."""
    editor = Editor(models["sd3"])
    given = {"method": method, "num_inference_steps": 3} | ({"refine_iterations": 2} if method == "ddim" else {})
    inversions = editor.invert([_picture()], source_prompts=SOURCE, settings=InversionSettings.model_validate(given))
    for variation in (0.0, 1.0):
        [[edited]] = editor.edit(
            inversions, prompt=TARGET, variation=variation, negative_prompt="dark", guidance_scale=4
        )
        assert np.asarray(edited).std() > 0


@pytest.mark.parametrize("name", POOLED)
def test_a_fit_moves_tokens_and_leaves_the_pooled_vector(name: str, models: dict[str, Backbone]) -> None:
    """What is stored of each step has the source prompt's own vector behind tokens that were moved."""
    model = models[name]
    settings = InversionSettings(num_inference_steps=2, max_iterations=3, tolerance=0, artifact="full")
    [inversion] = Editor(model).invert([_picture()], source_prompts=SOURCE, settings=settings)
    source, learned = model.encode_prompts([SOURCE]).half(), inversion.tensors["embeddings"]
    assert torch.equal(learned[:, -1:], source[:, -1:].expand(2, -1, -1))
    assert not torch.equal(learned[:, :-1], source[:, :-1].expand(2, -1, -1))


@pytest.mark.parametrize("width", [5, 8, 13])
def test_pooled_vectors_survive_packing(width: int) -> None:
    """Whatever their width beside that of tokens, and without a gradient."""
    tokens, pooled = _random(3, 8), _random(width, seed=1)
    embedding = packed(tokens, pooled)[None].requires_grad_()
    found_tokens, found_pooled = unpacked(embedding, width)
    assert torch.equal(found_tokens[0], tokens)
    assert torch.equal(found_pooled[0], pooled)
    assert not found_pooled.requires_grad


def test_latents_are_scaled_by_each_channels_mean_and_deviation() -> None:
    """Where an autoencoder's configuration has them, as SDXL's pipeline reads it; and back."""
    torch.manual_seed(0)
    mean, std = [0.5, -1.0, 0.0, 2.0], [1.0, 2.0, 0.5, 4.0]
    vae = new_autoencoder(latents_mean=mean, latents_std=std, scaling_factor=0.5).eval()
    autoencoder, pixels = Autoencoder(vae, torch.device("cpu"), torch.float32), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        raw = vae.encode(pixels * 2 - 1).latent_dist.mode()
        expected = (raw - torch.tensor(mean).view(1, 4, 1, 1)) * 0.5 / torch.tensor(std).view(1, 4, 1, 1)
        torch.testing.assert_close(autoencoder.encode(pixels), expected)
        torch.testing.assert_close(autoencoder.decode(expected), (vae.decode(raw).sample / 2 + 0.5).clamp(0, 1))


def test_sdxl_has_zeros_for_an_empty_prompt(
    folders: dict[str, Path], models: dict[str, Backbone], tmp_path: Path
) -> None:
    """Where its configuration says so, as of the base model."""
    assert not models["sdxl"].encode_prompts([""]).any()
    index = (folders["sdxl"] / "model_index.json").read_text()
    other = Path(shutil.copytree(folders["sdxl"], tmp_path / "other"))
    (other / "model_index.json").write_text(
        index.replace('zeros_for_empty_prompt": true', 'zeros_for_empty_prompt": false')
    )
    assert load_backbone(str(other), "cpu").encode_prompts([""]).any()


@pytest.mark.parametrize("name", ["sdxl", "sd3"])
def test_held_structure_is_the_sources(name: str, models: dict[str, Backbone]) -> None:
    """A row takes features of another: of its own nothing changes, of another's its output does."""
    model = models[name]
    z, timestep = _random(2, LATENTS[name], 16, 24), model.schedule(4).timesteps[1].expand(2)
    prompts = model.encode_prompts([SOURCE, TARGET])
    with torch.no_grad():
        plain, own, taken = (
            model.predict(z, timestep, prompts, Control(structure_of=rows))
            for rows in (None, torch.tensor([0, 1]), torch.tensor([0, 0]))
        )
    torch.testing.assert_close(own, plain)
    torch.testing.assert_close(taken[0], plain[0])
    assert not torch.allclose(taken[1], plain[1], atol=1e-4)


@pytest.mark.parametrize("name", ["sd2-v", "sdxl"])
def test_unets_carry_every_control(name: str, models: dict[str, Backbone]) -> None:
    """Attention held, words weighted and watched."""
    editor = Editor(models[name])
    inversions = editor.invert([_picture()], source_prompts=SOURCE, method="ddim", num_inference_steps=3)
    settings = EditSettings(mask="both", composite="none", hold_structure=0)
    asked = {"hold_self_attention": 0.5, "hold_cross_attention": 0.5, "word_weights": {"blue": 2.0}}
    plain, controlled = (
        np.asarray(editor.edit(inversions, prompt=TARGET, settings=settings, **more)[0][0]) for more in ({}, asked)
    )
    assert not np.array_equal(plain, controlled)


@pytest.mark.parametrize(
    ("asked", "settings"),
    [
        ({"hold_self_attention": 0.5}, {}),
        ({"hold_cross_attention": 0.5}, {}),
        ({"word_weights": {"blue": 2.0}}, {}),
        ({}, {"mask": "attention"}),
        ({}, {"mask": "both"}),
    ],
)
def test_a_transformer_refuses_what_it_lacks(asked: dict, settings: dict, models: dict[str, Backbone]) -> None:
    """In one line that names it."""
    editor = Editor(models["sd3"])
    inversions = editor.invert([_picture()], method="ddim", num_inference_steps=1)
    with pytest.raises(JobError, match=f"{next(iter(asked), 'mask')}.*expected a model with cross-attention"):
        editor.edit(inversions, prompt=TARGET, settings=EditSettings(**settings), **asked)


@pytest.mark.parametrize("name", UNTRAINED)
def test_other_weights_are_another_model(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """Equal weights in another place are the same."""
    same, other = (model_fingerprint(str(FOLDERS[name](tmp_path / str(seed), seed=seed))) for seed in (0, 1))
    assert same == model_fingerprint(str(folders[name])) != other


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_one_other_weight_makes_the_bundled_model_another(part: str, tmp_path: Path) -> None:
    """In whichever of its networks."""
    shutil.copytree(BUNDLED_MODEL, tmp_path / "copy")
    path = next((tmp_path / "copy" / part).glob("*.safetensors"))
    weights = load_file(path)
    weights[min(weights)].view(-1)[0] += 1
    save_file(weights, path, metadata={"format": "pt"})
    assert model_fingerprint(str(tmp_path / "copy")) != model_fingerprint(None)


@pytest.mark.parametrize("name", UNTRAINED)
def test_a_text_is_encoded_once(name: str, folders: dict[str, Path]) -> None:
    """By each encoder, however many rows and calls have it."""
    model, seen = load_backbone(str(folders[name]), "cpu"), list[str]()
    encoders = {part: network for part, network in model._pipeline.components.items() if "text_encoder" in part}
    for part, network in encoders.items():
        if network is not None:
            network.register_forward_hook(lambda *_, part=part: seen.append(part))
    once = model.encode_prompts(["", TARGET])
    assert len(seen) == 2 * len(set(seen)) > 0
    again = model.encode_prompts([SOURCE, TARGET, "", SOURCE, TARGET])
    assert len(seen) == 3 * len(set(seen))
    for i, embedding in ((1, once[1]), (2, once[0]), (3, again[0]), (4, once[1])):
        assert torch.equal(again[i], embedding)


def test_an_unknown_family_is_refused(tmp_path: Path) -> None:
    """The message names it and those that are known."""
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(
        JobError, match=r"expected one of StableDiffusionPipeline .*XLPipeline.*got FluxPipeline"
    ) as caught:
        load_backbone(str(tmp_path), "cpu")
    assert len(str(caught.value).splitlines()) == 1


def test_a_schedule_that_is_not_ours_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """Noise levels that depend on the picture's size would be others than the model's."""
    shutil.copytree(folders["sd3"], tmp_path, dirs_exist_ok=True)
    settings = (folders["sd3"] / "scheduler" / "scheduler_config.json").read_text()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(
        settings.replace('"use_dynamic_shifting": false', '"use_dynamic_shifting": true')
    )
    with pytest.raises(JobError, match="scheduler without use_dynamic_shifting"):
        load_backbone(str(tmp_path), "cpu")
