"""The engine reads pictures that fetching decoded and resized: the results are what they were of the originals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.asking import Asking
from pipeline.config import JobConfig
from pipeline.editor import Editor
from pipeline.inversion import Inversion
from pipeline.io.arrays import unpack_pixels
from pipeline.io.images import decode, decode_mask, encode_png, resize
from pipeline.models.grid import read_grid
from pipeline.records import PromptRow
from pipeline.settings import InversionSettings
from pipeline.stages.engine import Engine
from pipeline.stages.fetch import Fetch
from pipeline.stages.rows import Asked, Fetched
from tests.small_job import photograph
from tests.small_model import save_small_model
from tests.stages.conftest import FINGERPRINT, committed_in

SETTINGS = InversionSettings(num_inference_steps=3, max_iterations=1)
# Larger and smaller than the model's, upright and lying, of its own size, and beyond 4:1.
SIZES = [(640, 480), (90, 200), (12, 9), (32, 32), (300, 40)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the small model."""
    return str(save_small_model(tmp_path_factory.mktemp("model") / "small"))


class Noting(Editor):
    """An editor that keeps what it was given and what it returned."""

    def invert_rows(self, images: Sequence[Any], *words: Any) -> list[Any]:
        self.given, self.made = list(images), super().invert_rows(images, *words)
        return self.made


@pytest.mark.parametrize("max_side", [0, 48])
def test_inversions_are_those_of_the_originals(model: str, max_side: int, tmp_path: Path) -> None:
    """Bit for bit, as the editor makes them of whole photographs; masks have been resized in the same way."""
    config = JobConfig(model=model, max_side=max_side, inversion=SETTINGS, escalate=False)
    rows, originals, masks = _fetched(config, tmp_path)
    editor = Noting.from_pretrained(model, device="cpu", side=max_side)
    assert isinstance(editor, Noting)
    assert next(Engine(config, editor)(rows))
    made = editor.made
    expected = Editor.from_pretrained(model, device="cpu", side=max_side).invert_rows(originals, "a mug", SETTINGS)
    for one, other, row, mask, picture in zip(made, expected, rows, masks, editor.given, strict=True):
        assert isinstance(other, Inversion)
        assert one.size == other.size == picture.shape[1::-1]
        assert one.tensors.keys() == other.tensors.keys()
        assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
        assert (one.vae_psnr, one.recon_psnr) == (other.vae_psnr, other.recon_psnr)
        assert row["mask"] is not None
        assert np.array_equal(unpack_pixels(row["mask"]), resize(decode_mask(mask, 10**6), other.size))


def _fetched(config: JobConfig, folder: Path) -> tuple[list[Fetched], list[Any], list[bytes]]:
    """Rows of photographs with masks, their pixels, and the masks."""
    asked, pictures, masks = [], [], []
    for i, size in enumerate(SIZES):
        masks.append(encode_png(decode(photograph(100 + i, size), 10**6).pixels, None, None))
        pictures.append(photograph(i, size))
        for name, data in (("photo", pictures[-1]), ("mask", masks[-1])):
            (folder / f"{name}{i}.png").write_bytes(data)
        uris = {"image_uri": str(folder / f"photo{i}.png"), "mask_uri": str(folder / f"mask{i}.png")}
        asked.append(Asked(image_id=str(i), source_prompt="a mug", **uris))
    prompts = Asking([PromptRow(edit_id="blue", prompt="a blue mug")])
    grid = read_grid(config.model, config.max_side)
    fetch = Fetch(config, prompts, FINGERPRINT, committed_in(str(folder / "out")), grid.working_size)
    return fetch(asked), [decode(data, 10**6).pixels for data in pictures], masks
