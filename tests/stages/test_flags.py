"""What a row of the edits table says of its edit: what is doubtful, and what was measured of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.io.images import decode, encode_png, resize
from pipeline.records import PromptRow
from pipeline.stages.rows import Asked
from tests.small_job import table
from tests.stages.conftest import Job
from tests.stages.stand_in import StandInEditor

BLUE = PromptRow(edit_id="blue", prompt="a blue photo", strength=(0.0, 0.5, 1.0))
Photograph = Callable[..., Asked]


def test_what_is_doubtful_about_an_edit_is_in_its_row(output: Path, photograph: Photograph, tmp_path: Path) -> None:
    """A short reconstruction and an empty mask are flagged; an original is not held against its mask."""
    (tmp_path / "mask.png").write_bytes(encode_png(np.zeros((32, 48, 3), np.uint8), None, None))
    asked = [photograph("open"), photograph("shut", 50, mask_uri=str(tmp_path / "mask.png"))]
    Job(output, StandInEditor(), [BLUE], qa_margin=1.5).run(asked)
    flags = {(row["image_id"], row["strength"]): row["qa_flags"] for row in table(output, "edits")}
    assert flags["open", 1.0] == []
    assert flags["shut", 1.0] == ["mask_empty"]
    assert flags["shut", 0.0] == []
    Job(output / "strict", StandInEditor(), [BLUE], qa_margin=0.5).run([asked[0]])
    assert {tuple(row["qa_flags"]) for row in table(output / "strict", "edits")} == {("reconstruction_short",)}


def test_words_without_a_source_prompt_are_flagged(output: Path, photograph: Photograph) -> None:
    """Where an attention mask, the job's or the row's own, or held words have no source prompt to compare with."""
    rows = [
        BLUE,
        BLUE.model_copy(update={"edit_id": "watched", "mask": "attention"}),
        BLUE.model_copy(update={"edit_id": "held", "hold_cross_attention": 0.5}),
    ]
    asked = [photograph("said", source_prompt="a red photo"), photograph("unsaid", source_prompt=None)]
    Job(output, StandInEditor(), rows).run(asked)
    flagged = {(row["image_id"], row["edit_id"]) for row in table(output, "edits") if row["qa_flags"]}
    assert flagged == {("unsaid", "watched"), ("unsaid", "held")}


def test_an_edit_that_asks_for_what_is_there_may_change_nothing(
    output: Path, photograph: Photograph, tmp_path: Path
) -> None:
    """An empty mask is no reason for doubt where the target is the source prompt."""
    (tmp_path / "mask.png").write_bytes(encode_png(np.zeros((32, 48, 3), np.uint8), None, None))
    asked = photograph("a", mask_uri=str(tmp_path / "mask.png"), source_prompt="a blue photo")
    rows = [PromptRow(edit_id=name, prompt=name) for name in ("a blue photo", "a red photo")]
    Job(output, StandInEditor(), rows).run([asked])
    assert {row["edit_id"]: row["qa_flags"] for row in table(output, "edits")} == {
        "a blue photo": [],
        "a red photo": ["mask_empty"],
    }


@pytest.mark.parametrize("composite", ["full", "none"])
def test_what_is_outside_the_mask_is_measured(
    output: Path, photograph: Photograph, tmp_path: Path, composite: str
) -> None:
    """`background_psnr` is the published picture's to the original at its size, `mask_coverage` the mask's mean."""
    left = np.zeros((32, 48, 3), np.uint8)
    left[:, :24] = 255
    (tmp_path / "mask.png").write_bytes(encode_png(left, None, None))
    asked = photograph("a", mask_uri=str(tmp_path / "mask.png"))
    Job(output, StandInEditor(), [BLUE], edit={"composite": composite}).run([asked])
    [row] = [row for row in table(output, "edits") if row["strength"] == 1]
    assert row["mask_coverage"] == pytest.approx(0.5, abs=0.05)
    picture = decode((output / "images/a/blue/1.png").read_bytes(), 10**6).pixels
    height, width = picture.shape[:2]
    original = resize(decode(Path(asked["image_uri"]).read_bytes(), 10**6).pixels, (width, height))
    right = resize(left, (width, height))[..., 0] < 128
    error = np.square(picture[right] / 255 - original[right] / 255).mean()
    assert row["background_psnr"] == pytest.approx(-10 * np.log10(max(error, 1e-10)), abs=0.01)
    assert (row["background_psnr"] > 30) == (composite == "full")


def test_masks_are_checked(output: Path, photograph: Photograph, tmp_path: Path) -> None:
    """A mask of another aspect ratio fails its image; a fitting one reaches the model and the composite."""
    for name, size in (("tall", (64, 16)), ("fits", (32, 48))):
        (tmp_path / f"mask-{name}.png").write_bytes(encode_png(np.zeros((*size, 3), np.uint8), None, None))
    tall, fits = (photograph(name, mask_uri=str(tmp_path / f"mask-{name}.png")) for name in ("tall", "fits"))
    counts = Job(output, StandInEditor(), [BLUE]).run([tall, fits])
    assert (counts.edited, counts.codes) == (3, {"mask_wrong_shape": 1})
    published = decode((output / "images/fits/blue/1.png").read_bytes(), 10**6).pixels
    original = decode(Path(fits["image_uri"]).read_bytes(), 10**6).pixels
    assert np.array_equal(published, original)
