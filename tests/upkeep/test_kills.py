"""Pruning and merging are killed −9 at each of their steps, and done again."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
from pathlib import Path
from typing import Any, Final

import pytest

from pipeline.io.artifacts import SCHEMAS
from pipeline.io.lease import held
from pipeline.io.rewriting import merge_files
from pipeline.upkeep.pruning import prune
from pipeline.upkeep.wanted import Wanted
from tests.kills.points import MOMENTS, REMOVALS, arm, install, pending
from tests.results import results
from tests.upkeep.outputs import ASKED, LEFT, NEW, files_of, make, plan, rows, rows_of, run

# Each step where a file takes the places of others, which is the same for all tables; and steps between tables.
OF_MERGING: Final = (*(f"{moment} edits" for moment in (*MOMENTS, *REMOVALS)), "between inversions")
OF_PRUNING: Final = (
    *("removing failures", "within edits", "between edits", "removing withdrawals", "removing inversions"),
    *(f"{moment} picture" for moment in REMOVALS),
)


def merge(output: Path) -> None:
    """`relatent compact`."""
    with held(str(output)) as fence:
        for kind in SCHEMAS:
            merge_files(fence, kind)


def prune_to_the_rest(output: Path, photographs: Path) -> None:
    """`relatent prune` after a job over fewer images."""
    wanted = Wanted.by(plan(output, rows(photographs, LEFT), NEW))
    with held(str(output)) as fence:
        prune(fence, wanted, {})


def die(kills: Path, what: Any, *of: Any) -> None:
    """Do it in a process that is killed on its way."""
    install(kills)
    what(*of)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output in many files."""
    return make(tmp_path_factory.mktemp("made"))


def killed(tmp_path: Path, point: str, what: Any, *of: Any) -> None:
    """Kill it at one of its steps."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.stages.conftest"])
    arm(tmp_path / "kills", f"{point} self")
    process = context.Process(target=die, args=(tmp_path / "kills", what, *of))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert pending(tmp_path / "kills") == []


def test_merging_leaves_each_row_once(made: Path, tmp_path: Path) -> None:
    """Fewer files, the same rows; again, nothing changes; the job finds all it made."""
    output = shutil.copytree(made, tmp_path / "out")
    before = results(output), rows_of(output)
    merge(output)
    assert (results(output), rows_of(output)) == before
    assert set(files_of(output).values()) == {1}
    names = [path.name for path in output.rglob("*.parquet")]
    merge(output)
    assert [path.name for path in output.rglob("*.parquet")] == names
    counts = run(output, rows(made.parent / "in", ASKED), NEW)
    assert sum(c.inverted + c.edited for c in counts) == 0


@pytest.mark.parametrize("point", OF_MERGING)
def test_merging_may_be_killed_anywhere(made: Path, tmp_path: Path, point: str) -> None:
    """A reader finds the same results at once, and once it is done again each row is there once."""
    output = shutil.copytree(made, tmp_path / "out")
    before = results(output), rows_of(output)
    killed(tmp_path, point, merge, output)
    assert results(output) == before[0]
    assert {kind: set(found) for kind, found in rows_of(output).items()} == {k: set(f) for k, f in before[1].items()}
    merge(output)
    assert (results(output), rows_of(output)) == before
    assert set(files_of(output).values()) == {1}


@pytest.fixture(scope="module")
def merged(made: Path) -> Path:
    """The same in few files, whose rows go and stay."""
    output = shutil.copytree(made, made.with_name("merged"))
    merge(output)
    return output


@pytest.fixture(scope="module")
def undisturbed(merged: Path) -> Path:
    """What is left of it, if nothing happens."""
    output = shutil.copytree(merged, merged.with_name("undisturbed"))
    prune_to_the_rest(output, merged.parent / "in")
    return output


@pytest.mark.parametrize("point", OF_PRUNING)
def test_pruning_may_be_killed_anywhere(
    made: Path, merged: Path, undisturbed: Path, tmp_path: Path, point: str
) -> None:
    """No row ever speaks of a picture that is gone, what is wanted stays, and done again it ends as undisturbed."""
    output = shutil.copytree(made if point.startswith("between") else merged, tmp_path / "out")
    expected = results(undisturbed)
    killed(tmp_path, point, prune_to_the_rest, output, made.parent / "in")
    assert results(output).edits.items() >= expected.edits.items()
    prune_to_the_rest(output, made.parent / "in")
    assert (results(output), rows_of(output)) == (expected, rows_of(undisturbed))
