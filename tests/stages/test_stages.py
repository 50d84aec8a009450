"""The three stages together, without Ray and with a stand-in for the model."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import RowError
from pipeline.io.artifacts import write_rows
from pipeline.io.images import decode, encode_png
from pipeline.io.outcomes import current_failures, summary
from pipeline.keys import sha256_hex
from pipeline.planning import Counts
from pipeline.records import PromptRow
from pipeline.stages.rows import Asked, load_orders
from tests.io.rows import failure_row
from tests.small_job import table
from tests.stages.conftest import Job, StandInEditor

BLUE = PromptRow(edit_id="blue", prompt="a blue photo", strength=(0.0, 0.5, 1.0))
NAMED = PromptRow(edit_id="named", prompt="a photo of {thing}")
Photograph = Callable[..., Asked]


def test_a_job_commits_its_inversions_and_edits(output: Path, photograph: Photograph) -> None:
    """Each image gets one artifact and each edit one picture of the original's size, committed by a row."""
    counts = Job(output, StandInEditor(), [BLUE]).run([photograph("a"), photograph("b", 50)])
    assert (counts.inverted, counts.edited, counts.failures) == (2, 6, 0)
    edits = table(output, "edits")
    assert len({row["edit_key"] for row in edits}) == 6
    assert {row["image_id"] for row in table(output, "inversions")} == {"a", "b"}
    for row in edits:
        data = Path(row["image_uri"]).read_bytes()
        assert sha256_hex(data) == row["sha256"]
        assert decode(data, 10**6).pixels.shape == (32, 48, 3)


def test_strength_zero_is_the_original(output: Path, photograph: Photograph) -> None:
    """An edit of strength 0 publishes the original's pixels exactly."""
    asked = photograph("a")
    Job(output, StandInEditor(), [BLUE]).run([asked])
    original = decode(Path(asked["image_uri"]).read_bytes(), 10**6).pixels
    published = decode((output / "images/a/blue/0.png").read_bytes(), 10**6).pixels
    assert np.array_equal(original, published)


def test_running_again_does_nothing(output: Path, photograph: Photograph) -> None:
    """A finished job finds everything there, and does not touch the model."""
    asked = [photograph("a"), photograph("b", 50)]
    Job(output, StandInEditor(), [BLUE]).run(asked)
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    editor = StandInEditor()
    counts = Job(output, editor, [BLUE]).run(asked)
    assert (counts.inverted, counts.reused, counts.edited, counts.kept) == (0, 2, 0, 6)
    assert editor.batches == []
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()} == before


def test_new_prompts_reuse_artifacts(output: Path, photograph: Photograph) -> None:
    """A prompt added later is edited from the stored tensors; nothing is inverted again."""
    asked = photograph("a")
    Job(output, StandInEditor(), [BLUE]).run([asked])
    editor = StandInEditor()
    more = PromptRow(edit_id="red", prompt="a red photo")
    counts = Job(output, editor, [BLUE, more]).run([asked])
    assert (counts.inverted, counts.reused, counts.edited, counts.kept) == (0, 1, 1, 3)
    assert editor.batches == [1]


def test_a_prompt_changed_and_changed_back_is_edited_again(output: Path, photograph: Photograph) -> None:
    """A picture is what its manifest asks for now, also where the same was asked before something else."""
    asked = photograph("a")
    picture = output / "images/a/blue/1.png"
    pictures = []
    for prompt in ("a blue photo", "a bluer photo", "a blue photo"):
        counts = Job(output, StandInEditor(), [PromptRow(edit_id="blue", prompt=prompt)]).run([asked])
        assert (counts.edited, counts.kept) == (1, 0)
        pictures.append(picture.read_bytes())
    assert pictures[0] != pictures[1]
    assert pictures[0] == pictures[2]
    counts = Job(output, StandInEditor(), [PromptRow(edit_id="blue", prompt="a blue photo")]).run([asked])
    assert (counts.edited, counts.kept) == (0, 1)
    assert summary(str(output)).edits == 1


def test_equal_images_share_one_artifact(output: Path, photograph: Photograph) -> None:
    """Two ids with the same bytes are inverted once and edited twice."""
    counts = Job(output, StandInEditor(), [BLUE]).run([photograph("a"), photograph("b")])
    assert (counts.inverted, counts.reused, counts.edited) == (1, 1, 6)
    assert len({row["edit_key"] for row in table(output, "edits")}) == 6


@pytest.mark.parametrize("together", [True, False])
def test_each_of_equal_images_has_a_row_of_its_own(output: Path, photograph: Photograph, together: bool) -> None:
    """In one batch or in later runs, every id can be edited from its artifact, with its own columns."""
    rows = [photograph(name, carried={"label": label}) for name, label in (("a", 1), ("b", 2))]
    job = Job(output, StandInEditor(), [])
    runs = [rows] if together else [[row] for row in rows]
    assert sum(map(job.run, runs), Counts()) == Counts(inverted=1, reused=1)
    artifacts = table(output, "inversions")
    assert {(row["image_id"], row["label"]) for row in artifacts} == {("a", 1), ("b", 2)}
    assert len({row["inversion_key"] for row in artifacts}) == 1
    assert job.run(rows) == Counts(reused=2)
    assert len(table(output, "inversions")) == 2


def test_many_edits_go_in_batches(output: Path, photograph: Photograph) -> None:
    """However many edits are asked for, the model sees at most `batch_size` at a time."""
    editor = StandInEditor()
    Job(output, editor, [BLUE], batch_size=4).run([photograph("a"), photograph("b", 50)])
    assert editor.batches == [2, 4, 2]


def test_carried_columns_reach_every_table(output: Path, photograph: Photograph) -> None:
    """The user's own columns are in the rows of artifacts, edits and failures."""
    good = photograph("a", carried={"thing": "mug", "label": 3})
    bad = photograph("b", 50, carried={"thing": None, "label": 4})
    counts = Job(output, StandInEditor(), [NAMED]).run([good, bad])
    assert counts.edited == 1
    assert {(row["image_id"], row["label"]) for row in table(output, "inversions")} == {("a", 3), ("b", 4)}
    assert [(row["thing"], row["label"]) for row in table(output, "edits")] == [("mug", 3)]
    assert [(row["edit_id"], row["code"], row["label"]) for row in table(output, "failures")] == [
        ("named", "row_refused", 4)
    ]


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
    write_rows(str(output), "failures", [failure_row("a", stage="plan", code="row_refused", created_at=later)])
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


def test_edits_from_artifacts_need_no_original_without_compositing(output: Path, photograph: Photograph) -> None:
    """With `composite` none an artifact is enough: the original may be gone."""
    asked = photograph("a")
    Job(output, StandInEditor(), []).run([asked])
    Path(asked["image_uri"]).unlink()
    (row,) = table(output, "inversions")
    asked.update(image_sha256=row["image_sha256"], inversion_key=row["inversion_key"])
    counts = Job(output, StandInEditor(), [BLUE], edit={"composite": "none"}).run([asked])
    assert (counts.reused, counts.edited) == (1, 3)
    assert decode((output / "images/a/blue/1.png").read_bytes(), 10**6).pixels.shape == (16, 16, 3)


def test_edits_from_artifacts_refuse_a_changed_original(output: Path, photograph: Photograph) -> None:
    """Compositing into other bytes than were inverted fails the row for good."""
    asked = photograph("a")
    Job(output, StandInEditor(), []).run([asked])
    (row,) = table(output, "inversions")
    asked.update(image_sha256=row["image_sha256"], inversion_key=row["inversion_key"])
    photograph("a", 7)
    job = Job(output, StandInEditor(), [BLUE])
    assert job.run([asked]).codes == {"original_changed": 1}
    assert job.run([asked]).codes == {"original_changed": 1}
    assert [row["retryable"] for row in table(output, "failures")] == [False]


def test_a_derived_seed_is_stable(output: Path, photograph: Photograph) -> None:
    """Without a seed of its own an edit's seed follows from its key; a given one is part of the key."""
    given = PromptRow(edit_id="given", prompt="a blue photo", seed=5)
    job = Job(output, StandInEditor(), [BLUE, given])
    first, second = (load_orders(job.fetch([photograph("a")])[0]["orders"]) for _ in range(2))
    assert first == second
    assert [order.seed for order in first if order.edit.edit_id == "given"] == [5]
    assert len({order.seed for order in first}) == 4
