"""The engine on a real, small Stable Diffusion: batches, sizes, strengths, masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.editor import Editor
from pipeline.errors import RowError
from pipeline.methods import METHODS
from pipeline.models.stable_diffusion import StableDiffusion
from pipeline.settings import EditSettings, InversionSettings
from pipeline.synthesis import EditRequest, Synthesis
from tests.small_model import save_small_model

SETTINGS = {
    "ddim": InversionSettings(method="ddim", num_inference_steps=4),
    "prompt-tuning": InversionSettings(num_inference_steps=4, max_iterations=3),
    "prompt-tuning, shared": InversionSettings(num_inference_steps=4, max_iterations=3, embeddings="shared"),
}
SOURCE, TARGET = "a photo of a red mug on a wooden table", "a photo of a blue mug on a wooden table"


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Editor:
    """An editor with the small model."""
    return Editor.from_pretrained(str(save_small_model(tmp_path_factory.mktemp("model"))), device="cpu")


def _photograph(seed: int, width: int = 40, height: int = 30) -> np.ndarray:
    """A smooth random picture."""
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
    return (smooth[0].permute(1, 2, 0) * 255).byte().numpy()


def _edited(result: Synthesis | RowError) -> np.ndarray:
    assert isinstance(result, Synthesis)
    return result.edited


def _raises(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    "lacks",
    [
        lambda: torch.empty(2**50),
        lambda: _raises(torch.OutOfMemoryError("no room")),
        lambda: _raises(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`")),
    ],
    ids=["host", "GPU, as raised here", "cuBLAS, as raised here"],
)
def test_out_of_memory_halves_the_slots_for_good(
    editor: Editor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, lacks: Callable[[], None]
) -> None:
    """Only as many images go through the network together as fit; that is said once, and nothing else changes."""
    calls: list[int] = []
    predict = StableDiffusion.predict

    def fits_four(model: StableDiffusion, z: torch.Tensor, *rest: Any) -> torch.Tensor:
        calls.append(len(z))
        if len(z) > 4:
            lacks()
        return predict(model, z, *rest)

    images, settings = [_photograph(seed) for seed in range(6)], SETTINGS["prompt-tuning"]
    expected = editor.invert(images, source_prompts=SOURCE, settings=settings)
    small = Editor(editor._model)
    monkeypatch.setattr(StableDiffusion, "predict", fits_four)
    with caplog.at_level("WARNING"):
        found = small.invert(images, source_prompts=SOURCE, settings=settings)
        small.invert(images, source_prompts=SOURCE, settings=settings)
    assert [call for call in calls if call > 4] == [6, 6]  # tried with 16 and with 8 slots, and never again
    assert [record.getMessage().split()[-7] for record in caplog.records] == ["8", "4"]
    for one, other in zip(expected, found, strict=True):
        assert one.iterations == other.iterations
        torch.testing.assert_close(one.tensors["reconstruction"], other.tensors["reconstruction"], rtol=0, atol=0.02)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_batch_gives_what_single_images_give(editor: Editor, name: str) -> None:
    """Images of a batch, of two shapes, come out as they do alone, up to rounding."""
    images = [_photograph(1), _photograph(2), _photograph(3, 30, 40), _photograph(4)]
    together = editor.invert(images, source_prompts=SOURCE, settings=SETTINGS[name])
    edited = editor.edit(together, prompt=TARGET, settings=EditSettings(mask="none"))
    for image, inversion, outputs in zip(images, together, edited, strict=True):
        alone = editor.invert([image], source_prompts=SOURCE, settings=SETTINGS[name])
        assert inversion.iterations == alone[0].iterations
        expected = editor.edit(alone, prompt=TARGET, settings=EditSettings(mask="none"))[0][0]
        difference = np.abs(np.asarray(outputs[0], dtype=int) - np.asarray(expected, dtype=int))
        assert difference.max() <= 2


def test_a_batchs_latents_are_those_of_single_images_bit_by_bit(editor: Editor) -> None:
    """What fits and edits begin with is rounded to half precision, which would make steps of rounding errors."""
    images = [_photograph(seed, 64, 64) for seed in range(8)]
    together = editor.invert(images, source_prompts=SOURCE, settings=SETTINGS["ddim"])
    for image, inversion in zip(images, together, strict=True):
        [alone] = editor.invert([image], source_prompts=SOURCE, settings=SETTINGS["ddim"])
        assert torch.equal(inversion.tensors["trajectory"][0], alone.tensors["trajectory"][0])


@pytest.mark.parametrize("name", SETTINGS)
def test_strength_zero_returns_the_original_exactly(editor: Editor, name: str) -> None:
    """Every pixel of the original comes back, at its own size."""
    image = _photograph(5, 57, 31)
    inversions = editor.invert([image], source_prompts=SOURCE, settings=SETTINGS[name])
    [[output]] = editor.edit(inversions, prompt=TARGET, strength=0)
    assert np.array_equal(np.asarray(output), image)


def test_a_target_that_equals_the_source_changes_nothing(editor: Editor) -> None:
    """With a known source prompt, asking for it again is the original, whatever the strength."""
    image = _photograph(6)
    inversions = editor.invert([image], source_prompts=SOURCE, settings=SETTINGS["prompt-tuning"])
    [outputs] = editor.edit(inversions, prompt=SOURCE, strength=[0.5, 1.25])
    assert all(np.array_equal(np.asarray(output), image) for output in outputs)


def test_a_sweep_costs_one_inversion_and_keeps_its_order(editor: Editor) -> None:
    """Strengths come back in the order asked, each like its own single edit."""
    inversions = editor.invert([_photograph(7)], source_prompts=SOURCE, settings=SETTINGS["ddim"])
    strengths = [1.25, 0, 0.5]
    [sweep] = editor.edit(inversions, prompt=TARGET, strength=strengths)
    for strength, output in zip(strengths, sweep, strict=True):
        [[single]] = editor.edit(inversions, prompt=TARGET, strength=strength)
        assert np.abs(np.asarray(output, dtype=int) - np.asarray(single, dtype=int)).max() <= 2


def test_each_row_holds_its_own_share_of_structure(editor: Editor) -> None:
    """Edits of one batch that hold nothing, half and all come out as alone, and all three differ."""
    inversions = editor.invert([_photograph(9)], source_prompts=SOURCE, settings=SETTINGS["prompt-tuning"])
    settings = EditSettings(mask="none", composite="none")
    requests = [EditRequest(0, TARGET, strength=2.0, hold_structure=share) for share in (0.0, 0.5, 1.0)]
    together = [_edited(result) for result in editor.edit_rows(inversions, requests, settings)]
    for request, edited in zip(requests, together, strict=True):
        [alone] = editor.edit_rows(inversions, [request], settings)
        np.testing.assert_allclose(edited, _edited(alone), atol=1e-3)
    assert np.abs(together[0] - together[1]).max() > 1e-2
    assert np.abs(together[1] - together[2]).max() > 1e-2


def test_an_edit_that_names_no_share_holds_the_settings(editor: Editor) -> None:
    """The prompt row's share wins over the job's; without one the job's holds."""
    inversions = editor.invert([_photograph(9)], source_prompts=SOURCE, settings=SETTINGS["prompt-tuning"])
    request = EditRequest(0, TARGET, strength=2.0)
    jobs = EditSettings(mask="none", composite="none", hold_structure=1.0)
    [of_the_job] = editor.edit_rows(inversions, [request], jobs)
    own = replace(request, hold_structure=1.0)
    [of_the_row] = editor.edit_rows(inversions, [own], jobs.model_copy(update={"hold_structure": 0.0}))
    np.testing.assert_array_equal(_edited(of_the_job), _edited(of_the_row))


def test_outside_a_given_mask_the_original_stays(editor: Editor) -> None:
    """A mask's black half keeps every pixel of the original."""
    image = _photograph(8, 64, 64)
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 40:] = 255
    inversions = editor.invert([image], source_prompts=SOURCE, settings=SETTINGS["prompt-tuning"])
    [[output]] = editor.edit(inversions, prompt=TARGET, masks=[mask], guidance_scale=8.0)
    assert np.array_equal(np.asarray(output)[:, :24], image[:, :24])


def test_working_sizes_keep_area_and_aspect(editor: Editor) -> None:
    """Any shape is worked at about the model's area, in multiples of its stride, nearest in aspect."""
    for width, height in [(1, 1), (8000, 6000), (6000, 8000), (1920, 1080), (5000, 10), (33, 32)]:
        w, h = editor.working_size(width, height)
        assert w * h <= 32 * 32
        assert w % 4 == 0
        assert h % 4 == 0
        assert (w >= h) == (width >= height)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"method": "telepathy"}, "|".join(METHODS)),
        ({"num_inference_steps": 0}, "greater than or equal to 1"),
        ({"source_prompts": [SOURCE, SOURCE]}, "expected one, or 1; got 2"),
    ],
)
def test_a_wrong_argument_is_a_clear_error(editor: Editor, wrong: dict[str, Any], said: str) -> None:
    """The message says what there is, or what was expected."""
    with pytest.raises(ValueError, match=said):
        editor.invert([_photograph(1)], **wrong)


def test_the_settings_name_every_method() -> None:
    """What a job may ask for is what there is."""
    assert get_args(InversionSettings.model_fields["method"].annotation) == tuple(METHODS)


def test_a_strength_outside_its_range_is_refused(editor: Editor) -> None:
    """As a manifest's is."""
    inversions = editor.invert([_photograph(1)], settings=SETTINGS["ddim"])
    with pytest.raises(ValueError, match=r"expected -1.* to 3.*; got 9"):
        editor.edit(inversions, prompt=TARGET, strength=9)


@pytest.mark.parametrize(
    ("name", "value"), [("hold_structure", 5), ("hold_structure", -0.1), ("guidance_scale", 31), ("variation", 2)]
)
def test_a_control_outside_its_range_is_refused(editor: Editor, name: str, value: float) -> None:
    """As a manifest's is."""
    inversions = editor.invert([_photograph(1)], settings=SETTINGS["ddim"])
    with pytest.raises(ValueError, match=f"{name}: expected 0 to .*; got {value}"):
        editor.edit(inversions, prompt=TARGET, **{name: value})


def test_sixteen_bit_images_keep_their_greys(editor: Editor) -> None:
    """A 16-bit ramp comes back as the 8-bit ramp it is, not clipped to white."""
    ramp = np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(np.uint16)
    inversions = editor.invert([Image.fromarray(ramp)], settings=SETTINGS["ddim"])
    [[output]] = editor.edit(inversions, prompt=TARGET, strength=0)
    assert np.abs(np.asarray(output)[..., 0].astype(int) - ramp / 257).max() <= 1


def test_a_prompt_longer_than_the_window_says_so_and_still_edits(editor: Editor) -> None:
    """It is cut off where diffusers cuts it, and the result says that it was."""
    [inversion] = editor.invert([_photograph(1)], settings=SETTINGS["ddim"])
    long = TARGET + " and a red mug" * 40
    longer = long + " in a white studio"
    requests = [EditRequest(0, prompt) for prompt in (TARGET, long, longer)]
    results = editor.edit_rows([inversion], requests, EditSettings(mask="none"))
    assert [isinstance(r, Synthesis) and r.truncated for r in results] == [False, True, True]
    np.testing.assert_array_equal(_edited(results[1]), _edited(results[2]))


def test_source_and_negative_prompts_that_are_cut_off_are_said_too(
    editor: Editor, caplog: pytest.LogCaptureFixture
) -> None:
    """In each result, at strength 0 as well, and by the editor in one line per prompt."""
    long = SOURCE + " and a red mug" * 40
    fits, cut = editor.invert([_photograph(1)] * 2, source_prompts=[SOURCE, long], settings=SETTINGS["ddim"])
    requests = [
        EditRequest(0, TARGET, 0.0),
        EditRequest(1, TARGET, 0.0),
        EditRequest(1, TARGET),
        EditRequest(0, TARGET, negative_prompt=long),
    ]
    results = editor.edit_rows([fits, cut], requests, EditSettings(mask="none"))
    assert [isinstance(r, Synthesis) and r.truncated for r in results] == [False, True, True, True]
    editor.edit([fits], prompt=TARGET, negative_prompt=long, strength=[0, 1])
    assert [record.getMessage()[:30] for record in caplog.records] == [f"prompt '{long}"[:30]] * 2


def test_each_edit_may_have_settings_of_its_own(editor: Editor) -> None:
    """In one call edits come out as they do under these settings alone, whatever the others have."""
    inversions = editor.invert([_photograph(1)], source_prompts=SOURCE, settings=SETTINGS["ddim"])
    job, own = (
        EditSettings(mask="none", hold_structure=0),
        [{}, {"mask": "auto", "mask_grow": 3}, {"interpolation": "towards-target"}],
    )
    requests = [EditRequest(0, TARGET, 0.5, settings=settings) for settings in own]
    for settings, result in zip(own, editor.edit_rows(inversions, requests, job), strict=True):
        [alone] = editor.edit_rows(inversions, [EditRequest(0, TARGET, 0.5)], job.of(settings))
        assert isinstance(result, Synthesis)
        assert isinstance(alone, Synthesis)
        np.testing.assert_allclose(result.mask, alone.mask, atol=1e-3)
        np.testing.assert_allclose(result.edited, alone.edited, atol=1e-3)


def test_transparency_survives_an_edit(editor: Editor) -> None:
    """An image with alpha comes back with that alpha."""
    image = Image.fromarray(_photograph(1)).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    inversions = editor.invert([image], source_prompts=SOURCE, settings=SETTINGS["ddim"])
    for output in editor.edit(inversions, prompt=TARGET, strength=[0, 1])[0]:
        assert np.array_equal(np.array(output.getchannel("A")), np.array(image.getchannel("A")))


def test_a_weak_edit_is_close_to_the_original_even_where_the_method_reconstructs_badly(editor: Editor) -> None:
    """Strength begins at the original: the method's own error is no part of an edit."""
    settings = SETTINGS["ddim"].model_copy(update={"guidance_scale": 5.0})
    photograph = _photograph(1)
    inversions = editor.invert([photograph], source_prompts=SOURCE, settings=settings)
    [[output]] = editor.edit(inversions, prompt=TARGET, strength=0.001, settings=EditSettings(mask="none"))
    assert np.abs(np.array(output).astype(int) - photograph).max() <= 2


def test_pillow_images_are_taken_as_they_come(editor: Editor) -> None:
    """Greyscale and alpha images are accepted, and outputs have their size."""
    pictures = [Image.fromarray(_photograph(1)).convert("L"), Image.fromarray(_photograph(2)).convert("RGBA")]
    inversions = editor.invert(pictures, settings=SETTINGS["ddim"])
    assert [[p.size for p in row] for row in editor.edit(inversions, prompt=TARGET)] == [[(40, 30)], [(40, 30)]]


def test_rows_of_one_call_may_differ_in_everything(editor: Editor) -> None:
    """Requests with their own prompts, strengths and masks are answered in order."""
    images = [_photograph(1), _photograph(2, 30, 40)]
    inversions = editor.invert(images, source_prompts=[SOURCE, ""], settings=SETTINGS["ddim"])
    requests = [
        EditRequest(1, TARGET),
        EditRequest(0, TARGET, 0.5),
        EditRequest(1, SOURCE, 0.0),
        EditRequest(0, SOURCE),
    ]
    results = editor.edit_rows(inversions, requests, EditSettings())
    assert all(isinstance(r, Synthesis) for r in results)
    sizes = [inversions[r.inversion].size for r in requests]
    assert [(r.edited.shape[1], r.edited.shape[0]) for r in results if isinstance(r, Synthesis)] == sizes


def test_several_changes_at_once_add_up(editor: Editor) -> None:
    """One alone is the plain edit bit for bit; without strengths it is the reconstruction; their order is free."""
    bare = EditSettings(mask="none", composite="none", hold_structure=0.5)
    for source, mode in ((SOURCE, "source-to-target"), ("", "source-to-target"), (SOURCE, "towards-target")):
        inversions = editor.invert([_photograph(9)], source_prompts=source, settings=SETTINGS["prompt-tuning"])
        other = "a photo of a red mug on a sandy beach"
        lists = [
            (),
            ((TARGET, 1.0),),
            ((TARGET, 1.0), (other, 0.5)),
            ((other, 0.5), (TARGET, 1.0)),
            ((TARGET, 0.0),) * 2,
        ]
        requests = [EditRequest(0, TARGET, deltas=deltas) for deltas in lists]
        settings = bare.model_copy(update={"interpolation": mode})
        results = editor.edit_rows(inversions, requests, settings)
        plain, single, both, reversed_, nothing = (_edited(result) for result in results)
        np.testing.assert_array_equal(plain, single)
        np.testing.assert_allclose(both, reversed_, atol=1e-4)
        assert np.abs(both - plain).max() > 1e-3
        assert isinstance(results[4], Synthesis)
        np.testing.assert_allclose(nothing, results[4].reconstruction, atol=0.02)


def test_several_changes_at_once_have_no_words_to_hold(editor: Editor) -> None:
    """What the job says about words is left out for them, and their mask is found from predictions."""
    inversions = editor.invert([_photograph(9)], source_prompts=SOURCE, settings=SETTINGS["ddim"])
    request = EditRequest(0, "both", deltas=((TARGET, 1.0), ("a photo of a red mug on a sandy beach", 0.5)))
    worded = EditSettings(mask="attention", hold_cross_attention=1.0, word_weights={"both": 3.0})
    [one], [other] = (editor.edit_rows(inversions, [request], settings) for settings in (worded, EditSettings()))
    np.testing.assert_allclose(_edited(one), _edited(other), atol=1e-4)


def test_the_fingerprint_follows_the_weights_and_not_the_place(tmp_path: Path, editor: Editor) -> None:
    """The same weights elsewhere are the same model; other weights are another."""
    same = Editor.from_pretrained(str(save_small_model(tmp_path / "same")), device="cpu")
    other = Editor.from_pretrained(str(save_small_model(tmp_path / "other", seed=1)), device="cpu")
    assert same.fingerprint == editor.fingerprint != other.fingerprint
