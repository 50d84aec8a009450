"""Photographs and requests that peers' users report trouble with."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pytest

from pipeline.config import FITTED, InversionSettings
from pipeline.editor import Editor
from pipeline.methods import METHODS
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


@pytest.mark.parametrize("steps", [1, 3, 7, 120, 333])
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


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_gives_no_nan(model: Path, dtype: str) -> None:
    """The network runs in half precision, and all that is stored and made is finite."""
    editor = Editor.from_pretrained(str(model), device="cpu", dtype=dtype)
    inversions = editor.invert(list(PICTURES.values()), source_prompts=SOURCE, settings=_settings("prompt-tuning"))
    for inversion in inversions:
        assert all(bool(tensor.isfinite().all()) for tensor in inversion.tensors.values())
    assert len(editor.edit(inversions, prompt=TARGET)) == len(PICTURES)
