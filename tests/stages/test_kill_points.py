"""A process is killed −9 at each step of a commit, and the job is run again."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import RowError
from pipeline.records import PromptRow
from pipeline.stages.rows import Asked
from tests.kills.points import KILL_POINTS, arm, install, pending
from tests.results import Results, results
from tests.small_job import photograph
from tests.stages.conftest import Job
from tests.stages.stand_in import StandInEditor

OLD = (PromptRow(edit_id="blue", prompt="a blue photo", strength=(0.5, 1.0)),)
# One edit takes another's place, one is new, one fails; so does an image that is missing.
NEW = (
    PromptRow(edit_id="blue", prompt="a bluer photo", strength=(0.5, 1.0)),
    PromptRow(edit_id="green", prompt="a green photo"),
    PromptRow(edit_id="bad", prompt="a bad photo"),
)


def run(output: Path, asked: Sequence[Asked], prompts: Sequence[PromptRow]) -> None:
    """One run of the three stages."""
    editor = StandInEditor({"a bad photo": RowError("out_of_memory", "none left")})
    Job(output, editor, prompts).run(asked)


def run_and_die(kills: Path, *job: Any) -> None:
    """The same in a process that is killed on its way."""
    install(kills)
    run(*job)


@pytest.fixture(scope="module")
def processes() -> Any:
    """A source of processes that have everything imported, and have done nothing yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.stages.conftest"])
    return context


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Asked], Results]:
    """An output of the old prompts, rows for the new ones, and what comes of those undisturbed."""
    folder = tmp_path_factory.mktemp("job")
    photographs = {"a": photograph(0), "b": photograph(1), "missing": None}
    for name, data in photographs.items():
        if data is not None:
            (folder / name).write_bytes(data)
            os.utime(folder / name, (0, 0))  # what has just been written is not remembered
    asked = [
        Asked(image_id=name, image_uri=str(folder / name), source_prompt="a photo", mask_uri=None)
        for name in photographs
    ]
    run(folder / "old", asked[:1], OLD)
    shutil.copytree(folder / "old", folder / "new")
    run(folder / "new", asked, NEW)
    return folder / "old", asked, results(folder / "new")


# What `run.json` needs is a driver: see tests/cluster.
@pytest.mark.parametrize("point", [point for point in KILL_POINTS if not point.endswith(("start", "run"))])
def test_a_kill_at_any_step_changes_nothing(point: str, processes: Any, job: Any, tmp_path: Path) -> None:
    """No row ever speaks of another picture, and the same job again gives what it gives undisturbed."""
    old, asked, undisturbed = job
    output = shutil.copytree(old, tmp_path / "out")
    arm(tmp_path / "kills", f"{point} self")
    process = processes.Process(target=run_and_die, args=(tmp_path / "kills", output, asked, NEW))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert pending(tmp_path / "kills") == []
    assert results(output).edits.keys() <= undisturbed.edits.keys()
    run(output, asked, NEW)
    assert results(output) == undisturbed
