"""The three stages together, without Ray and with a stand-in for the model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.counts import Counts
from pipeline.io import lease, storage
from pipeline.io.artifacts import write_rows
from pipeline.io.images import decode
from pipeline.io.outcomes import summary
from pipeline.io.storage import write_bytes
from pipeline.keys import sha256_hex
from pipeline.records import PromptRow
from pipeline.stages.rows import Asked, load_orders
from tests.small_job import table
from tests.stages.conftest import Job
from tests.stages.stand_in import StandInEditor

BLUE = PromptRow(edit_id="blue", prompt="a blue photo", strength=(0.0, 0.5, 1.0))
NAMED = PromptRow(edit_id="named", prompt="a photo of {thing}")
Photograph = Callable[..., Asked]


def _results(output: Path) -> list[Path]:
    """All files but those that say who wrote them."""
    return [path for path in output.rglob("*") if path.is_file() and path.parent.name != "leases"]


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
    before = {path: path.stat().st_mtime_ns for path in _results(output)}
    editor = StandInEditor()
    counts = Job(output, editor, [BLUE]).run(asked)
    assert (counts.inverted, counts.reused, counts.edited, counts.kept) == (0, 2, 0, 6)
    assert editor.batches == []
    assert {path: path.stat().st_mtime_ns for path in _results(output)} == before


def test_new_prompts_reuse_artifacts(output: Path, photograph: Photograph) -> None:
    """A prompt added later is edited from the stored tensors; nothing is inverted again."""
    asked = photograph("a")
    Job(output, StandInEditor(), [BLUE]).run([asked])
    editor = StandInEditor()
    more = PromptRow(edit_id="red", prompt="a red photo")
    counts = Job(output, editor, [BLUE, more]).run([asked])
    assert (counts.inverted, counts.reused, counts.edited, counts.kept) == (0, 1, 1, 3)
    assert editor.batches == [1]


def test_new_prompts_reuse_artifacts_of_images_without_a_source_prompt(output: Path, photograph: Photograph) -> None:
    """What the table holds as null comes back as the empty prompt."""
    asked = photograph("a", source_prompt=None)
    Job(output, StandInEditor(), []).run([asked])
    counts = Job(output, StandInEditor(), [BLUE]).run([asked])
    assert (counts.inverted, counts.edited, counts.failures) == (0, 3, 0)


def test_a_row_that_names_its_share_is_not_remade_when_the_jobs_changes(output: Path, photograph: Photograph) -> None:
    """The key has the share that the edit is made with, wherever it was said."""
    held = PromptRow(edit_id="held", prompt="a thing", hold_structure=0.5)
    Job(output, StandInEditor(), [held]).run([photograph("a")])
    for share, prompt in ((0.1, held), (0.5, held.model_copy(update={"hold_structure": None}))):
        counts = Job(output, StandInEditor(), [prompt], edit={"hold_structure": share}).run([photograph("a")])
        assert (counts.edited, counts.kept) == (0, 1)
    counts = Job(output, StandInEditor(), [held.model_copy(update={"hold_structure": 0.6})]).run([photograph("a")])
    assert (counts.edited, counts.kept) == (1, 0)


def test_guidance_given_as_fitted_is_none_given(output: Path, photograph: Photograph) -> None:
    """The same result has the same key, in `run` as in `edit`, which asks the artifact."""
    asked = photograph("a")
    plain = PromptRow(edit_id="e", prompt="a blue photo")
    given = plain.model_copy(update={"guidance_scale": 7.5})
    config = {"inversion": {"guidance_scale": 7.5}}
    Job(output, StandInEditor(), [plain], **config).run([asked])
    assert Job(output, StandInEditor(), [given], **config).run([asked]).kept == 1
    [row] = table(output, "inversions")
    asked.update(image_sha256=row["image_sha256"], inversion_key=row["inversion_key"], fitted_scale=7.5)
    assert Job(output, StandInEditor(), [given]).run([asked]).kept == 1
    asked["fitted_scale"] = 1.5
    assert Job(output, StandInEditor(), [given]).run([asked]).edited == 1


def test_an_artifact_with_settings_that_are_refused_now_is_edited(output: Path, photograph: Photograph) -> None:
    """What its method has no use for changed nothing when it was made."""
    Job(output, StandInEditor(), []).run([photograph("a")])
    [row] = table(output, "inversions")
    shutil.rmtree(output / "inversions")
    del row["mask_uri"]
    settings = json.loads(row["settings"]) | {"method": "ddim", "max_iterations": 9}
    write_rows(str(output), "inversions", [{**row, "settings": json.dumps(settings)}])
    assert Job(output, StandInEditor(), [BLUE]).run([photograph("a")]).edited == 3


def test_attention_controls_enter_the_key_by_what_they_do(output: Path, photograph: Photograph) -> None:
    """Shares and weights make another edit, wherever they are said; weights that change nothing do not."""
    plain = PromptRow(edit_id="e", prompt="a thing")
    weighted = plain.model_copy(update={"word_weights": {"thing": 2.0}})
    of_the_job = {"word_weights": {"thing": 2.0, "mug": 3.0}}
    for prompt, edit, edited in (
        (plain, {}, 1),
        (plain.model_copy(update={"word_weights": {"thing": 1.0}}), {"word_weights": {"mug": 3.0}}, 0),
        (weighted, {}, 1),
        (plain, of_the_job, 0),
        (plain.model_copy(update={"hold_self_attention": 0.5}), {}, 1),
        (plain, {"hold_self_attention": 0.5}, 0),
        (plain, {"hold_cross_attention": 0.5}, 1),
    ):
        counts = Job(output, StandInEditor(), [prompt], edit=edit).run([photograph("a")])
        assert (counts.edited, counts.kept) == (edited, 1 - edited), (prompt, edit)
    row = max(table(output, "edits"), key=lambda row: row["created_at"])
    assert (row["hold_self_attention"], row["hold_cross_attention"], row["word_weights"]) == (0.0, 0.5, "{}")


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


@pytest.mark.parametrize("dies_at", ["withdrawals", "1.png", "edits"])
def test_a_picture_that_was_replaced_but_not_committed_is_made_again(
    output: Path, photograph: Photograph, monkeypatch: pytest.MonkeyPatch, dies_at: str
) -> None:
    """A run that dies over a changed prompt leaves no old row beside a new picture, whichever prompt comes next."""
    asked = photograph("a")
    old, new = (PromptRow(edit_id="blue", prompt=prompt) for prompt in ("a blue photo", "a bluer photo"))
    Job(output, StandInEditor(), [old]).run([asked])
    picture = (output / "images/a/blue/1.png").read_bytes()

    def dies_before(uri: str, data: bytes) -> None:
        if dies_at in uri:
            raise KeyboardInterrupt
        write_bytes(uri, data)

    with monkeypatch.context() as patch:
        for module in (lease, storage):
            patch.setattr(module, "write_bytes", dies_before)
        with pytest.raises(KeyboardInterrupt):
            Job(output, StandInEditor(), [new]).run([asked])
    untouched = dies_at == "withdrawals"
    assert summary(str(output)).edits == int(untouched)
    counts = Job(output, StandInEditor(), [old]).run([asked])
    assert (counts.edited, counts.kept) == ((0, 1) if untouched else (1, 0))
    assert (output / "images/a/blue/1.png").read_bytes() == picture
    assert Job(output, StandInEditor(), [old]).run([asked]).kept == 1


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
    """However many edits are asked for, the engine makes at most `batch_size` at a time."""
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


def test_an_animation_gives_its_first_frame_and_says_so(output: Path, photograph: Photograph, tmp_path: Path) -> None:
    """The artifact's row says how many pictures its file held."""
    shades = [Image.new("RGB", (48, 32), (shade, shade, shade)) for shade in (10, 120, 250)]
    shades[0].save(tmp_path / "moving.webp", save_all=True, append_images=shades[1:], lossless=True)
    moving = photograph("a", image_uri=str(tmp_path / "moving.webp"))
    Job(output, StandInEditor(), [BLUE]).run([moving, photograph("b", 50)])
    assert {row["image_id"]: row["frames"] for row in table(output, "inversions")} == {"a": 3, "b": 1}
    assert (decode((output / "images/a/blue/0.png").read_bytes(), 10**6).pixels == 10).all()


def test_each_edit_says_how_long_it_held_structure(output: Path, photograph: Photograph) -> None:
    """The prompt row's share, or the job's where the row names none."""
    free = PromptRow(edit_id="free", prompt="another thing", hold_structure=0)
    Job(output, StandInEditor(), [NAMED, free], edit={"hold_structure": 0.25}).run(
        [photograph("a", carried={"thing": "x"})]
    )
    assert {row["edit_id"]: row["hold_structure"] for row in table(output, "edits")} == {"named": 0.25, "free": 0}


def test_several_changes_are_one_edit_by_what_they_are(output: Path, photograph: Photograph) -> None:
    """The row reads them in one line, the picture says them exactly, and another strength of one is another edit."""

    def both(share: float) -> PromptRow:
        edits = [{"prompt": "a blue photo"}, {"prompt": "a photo on a lawn", "strength": share}]
        return PromptRow.model_validate({"edit_id": "both", "edits": edits})

    asked = photograph("a")
    assert Job(output, StandInEditor(), [both(0.5)]).run([asked]).edited == 1
    [row] = table(output, "edits")
    assert row["prompt"] == "1 × a blue photo + 0.5 × a photo on a lawn"
    picture = (output / "images/a/both/1.png").read_bytes()
    assert b'[["a blue photo", 1.0], ["a photo on a lawn", 0.5]]' in picture
    assert Job(output, StandInEditor(), [both(0.5)]).run([asked]).kept == 1
    assert Job(output, StandInEditor(), [both(0.5000001)]).run([asked]).edited == 1


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
    """Without a seed of its own a varied edit's seed follows from its key; a given one is part of the key."""
    given = PromptRow(edit_id="given", prompt="a blue photo", seed=5)
    job = Job(output, StandInEditor(), [BLUE, given], edit={"variation": 0.5})
    first, second = (load_orders(job.fetch([photograph("a")])[0]["orders"]) for _ in range(2))
    assert first == second
    assert [order.seed for order in first if order.edit.edit_id == "given"] == [5]
    assert len({order.seed for order in first}) == 4
    job.run([photograph("a")])
    assert {row["seed"] for row in table(output, "edits")} == {order.seed for order in first}
    other = given.model_copy(update={"seed": 6})
    assert Job(output, StandInEditor(), [other], edit={"variation": 0.5}).run([photograph("a")]).edited == 1


def test_a_seed_without_noise_makes_nothing_again(output: Path, photograph: Photograph) -> None:
    """What draws no noise has no seed, in its key as in its row; a row's own share wins over the job's."""
    rows = [PromptRow(edit_id="e", prompt="a blue photo", seed=seed, variation=0.0) for seed in (None, 5, 6)]
    counts = [Job(output, StandInEditor(), [row], edit={"variation": 0.5}).run([photograph("a")]) for row in rows]
    assert [(c.edited, c.kept) for c in counts] == [(1, 0), (0, 1), (0, 1)]
    assert [(row["seed"], row["variation"]) for row in table(output, "edits")] == [(None, 0.0)]
