"""Working sizes are known from a model's folder, before it is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import JobError
from pipeline.models.assembly import load_backbone
from pipeline.models.grid import Grid, read_grid
from tests.model_folders import FOLDERS


@pytest.mark.parametrize("name", [*FOLDERS, "bundled"])
def test_a_folder_says_at_which_sizes_its_model_works(name: str, tmp_path: Path) -> None:
    """Of every family, what is read is what the loaded model says, with a side of its own and with another."""
    model = None if name == "bundled" else str(FOLDERS[name](tmp_path / name))
    loaded = load_backbone(model, "cpu")
    assert read_grid(model) == Grid(loaded.side, loaded.stride)
    for side in (loaded.side, 3 * loaded.side + 1):
        for size in [(300, 200), (1, 1), (1, 999), (4032, 3024)]:
            assert read_grid(model, side).working_size(*size) == loaded.working_size(*size, side)


def test_sizes_that_diffusers_corrects_are_corrected(tmp_path: Path) -> None:
    """Its versions before 0.9 wrote half the size that a Stable Diffusion was trained at."""
    config = FOLDERS["sd1"](tmp_path) / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_diffusers_version": "0.6.0"}))
    with pytest.warns(FutureWarning, match="sample_size"):
        loaded = load_backbone(str(tmp_path), "cpu")
    assert read_grid(str(tmp_path)) == Grid(loaded.side, loaded.stride) == Grid(128, 4)


@pytest.mark.parametrize("side", [32, 64, 100, 512, 1024])
def test_an_image_of_a_working_size_keeps_it(side: int) -> None:
    """So that pictures may be resized before an editor is asked."""
    grid = Grid(side, 8)
    for width in range(1, 3000, 97):
        size = grid.working_size(width, 700)
        assert grid.working_size(*size) == size


def test_a_model_that_does_not_say_its_sizes_is_refused(tmp_path: Path) -> None:
    """In one line that names the files."""
    (FOLDERS["sd1"](tmp_path) / "vae" / "config.json").write_text("{}")
    with pytest.raises(JobError, match=r"expected sizes in unet/config.json and vae/config.json; got KeyError"):
        read_grid(str(tmp_path))
