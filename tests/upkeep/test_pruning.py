"""What no manifest names any more goes, and nothing else."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.io.layout import lease_uri
from pipeline.io.lease import held
from pipeline.io.listing import temporary_files
from pipeline.upkeep.pruning import prune, to_prune
from pipeline.upkeep.wanted import Wanted
from tests.results import results
from tests.small_job import table
from tests.upkeep.outputs import ASKED, LEFT, NEW, files_of, make, plan, rows, rows_of, run


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An output of two runs."""
    return make(tmp_path)


def pruned(output: Path, names: tuple[str, ...], prompts: tuple[object, ...] = NEW) -> dict[str, tuple[int, int]]:
    """Prune what a job over some of the images does not name; how many of each kind went, of how many."""
    wanted = Wanted.by(plan(output, rows(output.parent / "in", names), prompts))  # type: ignore[arg-type]
    temporary = temporary_files(str(output))
    going = {one.what: (one.count, one.of) for one in to_prune(wanted, temporary)}
    with held(str(output)) as fence:
        prune(fence, wanted, temporary)
    return going


def test_of_a_whole_manifest_only_what_is_superseded_goes(output: Path) -> None:
    """The same job finds all its results, and makes nothing again; what goes is said before."""
    before = results(output)
    going = pruned(output, ASKED)
    # Of the earlier prompts: three pictures of red, six rows of blue that others replaced; no artifact.
    assert going["edits"] == (9, 15)
    assert (going["pictures"], going["artifacts"], going["withdrawals"]) == ((3, 9), (0, 3), (6, 6))
    kept = {place: edit for place, edit in before.edits.items() if "/red/" not in place}
    assert results(output).edits == kept
    assert results(output).failures == before.failures
    assert results(output).pictures == 6
    counts = run(output, rows(output.parent / "in", ASKED), NEW)
    assert [(c.inverted, c.edited) for c in counts] == [(0, 0), (0, 0)]
    assert set(pruned(output, ASKED)["edits"]) == {0, 6}


def test_images_that_are_no_longer_named_go(output: Path, tmp_path: Path) -> None:
    """What is left is what a run over the smaller manifest alone makes."""
    pruned(output, LEFT)
    run(tmp_path / "fresh", rows(tmp_path / "in", LEFT), NEW)
    assert results(output) == results(tmp_path / "fresh")
    assert {row["image_id"] for kind in ("inversions", "edits", "failures") for row in table(output, kind)} == {*LEFT}
    assert {Path(row["uri"]).name for row in table(output, "sources")} == {*LEFT}
    assert not (output / "images" / "b").exists()
    assert all(count == 1 for counts in rows_of(output).values() for count in counts.values())


def test_a_job_has_no_say_in_what_it_does_not_make(output: Path, tmp_path: Path) -> None:
    """After `invert` the images that it names keep their edits; `edit` from other artifacts leaves these alone."""
    invert = Wanted.by(plan(output, rows(tmp_path / "in", LEFT), (), "invert"))
    going = {one.what: (one.count, one.of) for one in to_prune(invert, {})}
    assert (going["edits"], going["pictures"], going["artifacts"]) == ((9, 15), (3, 9), (1, 3))
    edit = plan(output, rows(tmp_path / "in", LEFT), NEW, "edit")
    elsewhere = replace(edit, config=edit.config.model_copy(update={"inversions": "/elsewhere"}))
    assert next(one for one in to_prune(Wanted.by(elsewhere), {}) if one.what == "artifacts").count == 0


def test_an_artifact_of_bytes_that_are_gone_goes(output: Path, tmp_path: Path) -> None:
    """A photograph was replaced and inverted again: the artifact of the earlier one is of no use."""
    (tmp_path / "in" / "a").write_bytes((tmp_path / "in" / "b").read_bytes())
    run(output, rows(tmp_path / "in", ASKED), NEW)
    assert pruned(output, ASKED)["artifacts"] == (0, 4)  # what has just been written is not remembered
    os.utime(tmp_path / "in" / "a", (1, 1))
    run(output, rows(tmp_path / "in", ASKED), NEW)
    assert pruned(output, ASKED)["artifacts"] == (1, 4)


def test_leftovers_of_killed_runs_go(output: Path) -> None:
    """Unfinished files, pictures without rows and leases of a month ago; not the newest lease, nor a user's file."""
    half, orphan = output / "edits" / f".{'0' * 32}.tmp", output / "images" / "z" / "blue" / "1.png"
    orphan.parent.mkdir(parents=True)
    probe = output / ".writable"
    for path in (half, probe, orphan, output / "notes.txt"):
        path.write_text("x")
    leases = sorted((output / "leases").iterdir())
    old = json.loads(leases[0].read_text())
    since = (datetime.now(UTC) - timedelta(days=31)).strftime("%Y-%m-%d %H:%M:%S UTC")
    leases[0].write_text(json.dumps({**old, "since": since}))
    going = pruned(output, ASKED)
    assert (going["unfinished files"], going["leases"]) == ((2, 2), (1, len(leases)))
    assert not any(path.exists() for path in (half, probe, orphan, orphan.parent, leases[0]))
    assert (output / "notes.txt").exists()
    assert Path(lease_uri(str(output), int(leases[-1].stem) + 1)).exists()
    assert files_of(output)["edits"] > 0
