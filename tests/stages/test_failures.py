"""What becomes of images and edits that fail, in this run and in later ones."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import RowError
from pipeline.io.artifacts import write_rows
from pipeline.io.images import encode_png
from pipeline.io.outcomes import current_failures
from pipeline.records import PromptRow
from pipeline.stages import source
from pipeline.stages.rows import Asked
from tests.io.rows import failure_row
from tests.small_job import table
from tests.stages.conftest import Job
from tests.stages.stand_in import StandInEditor

BLUE = PromptRow(edit_id="blue", prompt="a blue photo", strength=(0.0, 0.5, 1.0))
Photograph = Callable[..., Asked]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (None, "image_missing"),
        (b"not an image", "image_not_decodable"),
        (encode_png(np.zeros((64, 64, 3), np.uint8), None, None)[:-40], "image_truncated"),
        (encode_png(np.zeros((400, 400, 3), np.uint8), None, None), "image_too_large"),
    ],
)
def test_bad_images_cost_themselves(output: Path, photograph: Photograph, data: bytes | None, code: str) -> None:
    """An image that cannot be used fails with its code and all its edits; the others are done."""
    bad = photograph("bad", 50)
    Path(bad["image_uri"]).unlink()
    if data is not None:
        Path(bad["image_uri"]).write_bytes(data)
    counts = Job(output, StandInEditor(), [BLUE], max_pixels=100_000).run([photograph("a"), bad])
    assert (counts.inverted, counts.images_failed, counts.edited, counts.edits_failed) == (1, 1, 3, 3)
    (failure,) = table(output, "failures")
    assert (failure["image_id"], failure["edit_id"], failure["code"], failure["attempts"]) == ("bad", None, code, 1)


@pytest.mark.parametrize(("name", "code"), [("image_uri", "image_too_large"), ("mask_uri", "mask_not_decodable")])
def test_files_beyond_all_pictures_are_not_read(
    output: Path, photograph: Photograph, monkeypatch: pytest.MonkeyPatch, name: str, code: str
) -> None:
    """An object of more bytes than any allowed picture has costs its row, and no memory."""
    monkeypatch.setattr(source, "_METADATA_BYTES", 100_000)
    large = {**photograph("large", 50), name: str(output.parent / "large")}
    with (output.parent / "large").open("wb") as file:
        file.truncate(1 << 40)
    counts = Job(output, StandInEditor(), [BLUE], max_pixels=100_000).run([photograph("a"), large])
    assert (counts.images_failed, counts.codes) == (1, {code: 1})


def test_permanent_failures_stand_while_their_input_is_unchanged(output: Path, photograph: Photograph) -> None:
    """A broken file is not recorded twice; once it is repaired its image is done and no longer failed."""
    bad = photograph("bad")
    good = Path(bad["image_uri"]).read_bytes()
    Path(bad["image_uri"]).write_bytes(b"not an image")
    job = Job(output, StandInEditor(), [BLUE])
    assert job.run([bad]).failures == 1
    assert job.run([bad]).failures == 1
    assert len(table(output, "failures")) == 1
    Path(bad["image_uri"]).write_bytes(good)
    counts = job.run([bad])
    assert (counts.inverted, counts.edited, counts.failures) == (1, 3, 0)


def test_failures_for_good_are_tried_again_where_that_is_insisted(output: Path, photograph: Photograph) -> None:
    """An image and an edit that fail once more count their attempts; what then succeeds has not failed."""
    bad = photograph("bad")
    Path(bad["image_uri"]).write_bytes(b"not an image")
    editor = StandInEditor({"a blue photo": RowError("non_finite", "NaN")})
    job = Job(output, editor, [BLUE])
    job.insist = True
    for attempts in (1, 2):
        job.run([photograph("a"), bad])
        assert {row["attempts"] for row in current_failures(str(output))} == {attempts}
    editor.fails_on.clear()
    assert job.run([photograph("a"), bad]).edited == 3
    assert [row["image_id"] for row in current_failures(str(output))] == ["bad"]


def test_retryable_failures_are_tried_once_more(output: Path, photograph: Photograph) -> None:
    """A missing object is looked for again, and the failure counts its attempts."""
    bad = photograph("bad")
    Path(bad["image_uri"]).unlink()
    job = Job(output, StandInEditor(), [BLUE])
    job.run([bad])
    job.run([bad])
    assert sorted(row["attempts"] for row in table(output, "failures")) == [1, 2]


def test_an_image_that_is_back_has_not_failed(output: Path, photograph: Photograph) -> None:
    """It was missing when all its edits were there; once it is back the failure ends, though there is nothing to do."""
    asked = [photograph("a"), photograph("b", 50)]
    job = Job(output, StandInEditor(), [BLUE])
    job.run(asked)
    data = Path(asked[0]["image_uri"]).read_bytes()
    Path(asked[0]["image_uri"]).unlink()
    assert job.run(asked).codes == {"image_missing": 1}
    Path(asked[0]["image_uri"]).write_bytes(data)
    for _ in range(2):
        counts = job.run(asked)
        assert (counts.reused, counts.kept, counts.failures) == (2, 6, 0)
        assert current_failures(str(output)) == []
    assert [row["code"] for row in table(output, "failures")].count("recovered") == 1


def test_an_image_that_shares_its_artifact_recovers(output: Path, photograph: Photograph) -> None:
    """An image that was missing gets no artifact of its own where another of the same bytes has it."""
    missing = photograph("b")
    data = Path(missing["image_uri"]).read_bytes()
    Path(missing["image_uri"]).unlink()
    job = Job(output, StandInEditor(), [])
    assert job.run([missing]).failures == 1
    Path(missing["image_uri"]).write_bytes(data)
    counts = job.run([photograph("a"), missing])
    assert (counts.inverted, counts.reused) == (1, 1)
    assert current_failures(str(output)) == []


def test_a_refused_row_stays_refused(output: Path, photograph: Photograph) -> None:
    """Of two manifest rows with one id the second is refused, however the first one's image fares."""
    job = Job(output, StandInEditor(), [BLUE])
    job.run([photograph("a")])
    later = datetime.now(UTC)
    refused = failure_row("a", stage="plan", code="row_refused", created_at=later, fence=2**62)
    write_rows(str(output), "failures", [refused])
    assert job.run([photograph("a")]).kept == 3
    assert [row["code"] for row in current_failures(str(output))] == ["row_refused"]


def test_an_edit_is_made_again_if_another_failed_in_its_place(output: Path, photograph: Photograph) -> None:
    """Its picture may be gone, and the failure ends with the new one."""
    good, bad = (PromptRow(edit_id="blue", prompt=prompt) for prompt in ("a blue photo", "a bad photo"))
    asked = photograph("a")
    editor = StandInEditor({"a bad photo": RowError("non_finite", "NaN")})
    assert Job(output, editor, [good]).run([asked]).edited == 1
    assert Job(output, editor, [bad]).run([asked]).edits_failed == 1
    for edited in (1, 0):
        counts = Job(output, editor, [good]).run([asked])
        assert (counts.edited, counts.failures) == (edited, 0)
        assert current_failures(str(output)) == []


def test_edits_that_fail_for_good_are_not_tried_again(output: Path, photograph: Photograph) -> None:
    """The same edit of the same artifact is refused from memory; the model is not asked."""
    failing = StandInEditor({"a blue photo": RowError("non_finite", "NaN")})
    red = PromptRow(edit_id="red", prompt="a red photo")
    counts = Job(output, failing, [BLUE, red]).run([photograph("a")])
    assert (counts.edited, counts.edits_failed) == (1, 3)
    editor = StandInEditor()
    counts = Job(output, editor, [BLUE, red]).run([photograph("a")])
    assert (counts.edited, counts.kept, counts.edits_failed) == (0, 1, 3)
    assert editor.batches == []


def test_a_bad_inversion_costs_its_image(output: Path, photograph: Photograph) -> None:
    """When a batch fails its rows are inverted one by one, and the bad one's failure is recorded."""
    editor = StandInEditor({50: ValueError("cannot")})
    counts = Job(output, editor, [BLUE]).run([photograph("a"), photograph("bad", 50), photograph("c", 7)])
    assert (counts.inverted, counts.images_failed, counts.edited, counts.edits_failed) == (2, 1, 6, 3)
    (failure,) = table(output, "failures")
    assert (failure["image_id"], failure["code"]) == ("bad", "internal")
    assert failure["message"] == "ValueError: cannot"
