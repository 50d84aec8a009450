"""Photographs and requests that peers' users report trouble with."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from pipeline.editor import Editor
from pipeline.errors import RowError
from pipeline.methods import METHODS
from pipeline.models.assembly import load_backbone
from pipeline.settings import FITTED, EditSettings, InversionSettings
from pipeline.synthesis import EditRequest, Synthesis
from tests.small_model import save_small_model

SIDE = 32
SOURCE, TARGET = "a photo of a red mug on a wooden table", "a photo of a blue mug on a wooden table"


def _flat(*colour: int) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), colour, np.uint8)


def _tiny_object() -> np.ndarray:
    picture = _flat(255, 255, 255)
    picture[15:17, 15:17] = (200, 0, 0)
    return picture


PICTURES: Final = {
    "flat white": _flat(255, 255, 255),
    "flat black": _flat(0, 0, 0),
    "saturated": _flat(255, 0, 255),
    "a tiny object on white": _tiny_object(),
    "noise": np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small model."""
    return save_small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def editor(model: Path) -> Editor:
    """An editor with the small model."""
    return Editor.from_pretrained(str(model), device="cpu")


@pytest.fixture(scope="module")
def half_precision(model: Path) -> Mapping[str, Editor]:
    """Editors with the small model in half precision."""
    return {d: Editor.from_pretrained(str(model), device="cpu", dtype=d) for d in ("bfloat16", "float16")}


def _settings(method: str, steps: int = 4) -> InversionSettings:
    budget = {"max_iterations": 2} if method in FITTED else {}
    return InversionSettings.model_validate(
        {"method": method, "num_inference_steps": steps, "guidance_scale": 3.0, **budget}
    )


@pytest.mark.parametrize("method", METHODS)
def test_any_picture_is_inverted_and_edited_at_any_strength(editor: Editor, method: str) -> None:
    """Flat, saturated, tiny and noisy pictures give finite edits from -1 to 3, and themselves at 0."""
    pictures = list(PICTURES.values())
    inversions = editor.invert(pictures, source_prompts=SOURCE, settings=_settings(method))
    assert all(np.isfinite([i.vae_psnr, i.recon_psnr]).all() for i in inversions)
    for picture, outputs in zip(
        pictures, editor.edit(inversions, prompt=TARGET, strength=[-1, 0, 0.5, 3]), strict=True
    ):
        assert np.array_equal(np.asarray(outputs[1]), picture)
        assert all(output.size == (SIDE, SIDE) for output in outputs)


@pytest.mark.parametrize("steps", [1, 3, 7, 333])
def test_any_number_of_steps_reconstructs_and_edits(editor: Editor, steps: int) -> None:
    """More than a hundred, and numbers that do not divide the training's thousand, are like any other."""
    [inversion] = editor.invert([PICTURES["noise"]], source_prompts=SOURCE, settings=_settings("ddim", steps))
    assert len(inversion.tensors["trajectory"]) == steps + 1
    [[output]] = editor.edit([inversion], prompt=TARGET, strength=0)
    assert np.array_equal(np.asarray(output), PICTURES["noise"])
    assert editor.edit([inversion], prompt=TARGET)[0][0].size == (SIDE, SIDE)


@pytest.mark.parametrize("method", METHODS)
def test_an_image_without_a_source_prompt_is_edited(editor: Editor, method: str) -> None:
    """Embeddings then move towards the target, since there is nothing to move from."""
    inversions = editor.invert([PICTURES["noise"]], settings=_settings(method))
    [[original, edited]] = editor.edit(inversions, prompt=TARGET, strength=[0, 1])
    assert np.array_equal(np.asarray(original), PICTURES["noise"])
    assert edited.size == (SIDE, SIDE)


@pytest.mark.parametrize("method", METHODS)
def test_a_target_that_equals_the_source_returns_the_original(editor: Editor, method: str) -> None:
    """Every picture comes back as it was, at any strength: nothing is asked of it."""
    pictures = list(PICTURES.values())
    inversions = editor.invert(pictures, source_prompts=SOURCE, settings=_settings(method))
    for picture, outputs in zip(
        pictures, editor.edit(inversions, prompt=SOURCE, strength=[-1, 0.5, 1, 3]), strict=True
    ):
        assert all(np.array_equal(np.asarray(output), picture) for output in outputs)


def test_more_than_a_hundred_steps_are_fitted_downhill(editor: Editor) -> None:
    """The learning rate of the published null-text code turns negative there."""
    errors = []
    for budget in (0, 1):
        settings = _settings("null-text", 110).model_copy(update={"max_iterations": budget})
        [found] = editor.invert([PICTURES["noise"]], source_prompts=SOURCE, settings=settings)
        reached = found.tensors["reconstruction"].float() - found.tensors["trajectory"][0].float()
        errors.append(float(reached.square().mean()))
    assert errors[1] < errors[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_gives_no_nan(half_precision: Mapping[str, Editor], dtype: str, method: str) -> None:
    """The network runs in half precision, and all that is stored and made is finite."""
    pictures = [PICTURES["flat white"], PICTURES["noise"]]
    inversions = half_precision[dtype].invert(pictures, source_prompts=SOURCE, settings=_settings(method, 2))
    for inversion in inversions:
        assert all(bool(tensor.isfinite().all()) for tensor in inversion.tensors.values())
    requests = [EditRequest(i, TARGET) for i in range(len(pictures))]
    for result in half_precision[dtype].edit_rows(inversions, requests, EditSettings()):
        assert isinstance(result, Synthesis)
        assert all(np.isfinite(values).all() for values in (result.edited, result.reconstruction, result.mask))


def test_long_prompts_are_cut_off_where_diffusers_cuts_them(model: Path) -> None:
    """Its own pipeline makes the same embedding of them, and of one that fits; only the long one is said to be cut."""
    ours = load_backbone(str(model), "cpu")
    theirs = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    for prompt, fits in ((TARGET, True), (f"{TARGET}, " * 20, False)):
        expected, _ = theirs.encode_prompt(prompt, "cpu", 1, do_classifier_free_guidance=False)
        torch.testing.assert_close(ours.encode_prompts([prompt]), expected)
        assert ours.holds(prompt) is fits


def test_weights_that_give_nan_fail_the_row(model: Path, tmp_path: Path) -> None:
    """A picture that cannot be decoded to finite values is a failure with its code, never a black one."""
    folder = tmp_path / "broken"
    shutil.copytree(model, folder)
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    vae.decoder.conv_out.bias.data[:] = float("nan")
    vae.save_pretrained(folder / "vae")
    with pytest.raises(RowError, match="vae_psnr") as failed:
        Editor.from_pretrained(str(folder), device="cpu").invert([PICTURES["noise"]], settings=_settings("ddim", 1))
    assert failed.value.code == "non_finite"
