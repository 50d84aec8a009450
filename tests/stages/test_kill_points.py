"""A process is killed −9 at each step of a commit, on local disk and on S3, and the job is run again."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.cluster.record import record_end, record_start
from pipeline.errors import RowError
from pipeline.io.layout import run_record_uri
from pipeline.io.lease import held
from pipeline.io.storage import join, read_bytes, write_bytes
from pipeline.records import PromptRow
from pipeline.stages.rows import Asked
from tests.faults import Proxy, faulty
from tests.kills.points import KILL_POINTS, PUT_KILL_POINTS, arm, be_the_driver, install, kill_at_puts, pending
from tests.results import Results, results
from tests.s3_server import environment
from tests.small_job import photograph
from tests.stages.conftest import Job
from tests.stages.stand_in import StandInEditor
from tests.upkeep.outputs import plan

OLD = (PromptRow(edit_id="blue", prompt="a blue photo", strength=(0.5, 1.0)),)
# Edits take others' places, one is new, of a new image, and one fails; so does an image that is missing.
NEW = (
    PromptRow(edit_id="blue", prompt="a bluer photo", strength=(0.5, 1.0), image_id="a"),
    PromptRow(edit_id="green", prompt="a green photo", image_id="b"),
    PromptRow(edit_id="bad", prompt="a bad photo", image_id="a"),
)


@dataclass(frozen=True)
class Small:
    """A job.

    Attributes:
        old: its output before the prompts changed.
        asked: its images.
        before, after: what comes of it, with the old prompts and the new ones, if nothing happens to it.
        counts: what its record says in the end.
    """

    old: Path
    asked: list[Asked]
    before: Results
    after: Results
    counts: Any


def run(output: Path | str, asked: Sequence[Asked], prompts: Sequence[PromptRow]) -> None:
    """What a driver and its workers do in one run, in one process."""
    editor = StandInEditor({"a bad photo": RowError("out_of_memory", "none left")})
    job, asks = Job(output, editor, prompts), plan(output, asked, prompts)
    with held(job.output) as fence:
        record_start(asks, fence)
        record_end(asks, fence, job.work(asked, fence))


def run_and_die(kills: Path, variables: dict[str, str], *job: Any) -> None:
    """The same in a process that is killed on its way."""
    os.environ.update(variables)
    be_the_driver(kills)
    install(kills)
    run(*job)


def record(output: Path | str) -> Any:
    """run.json."""
    return json.loads(read_bytes(run_record_uri(str(output))))


@pytest.fixture(scope="module")
def processes() -> Any:
    """A source of processes that have everything imported, and have done nothing yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Small:
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
    old, new = folder / "old", folder / "new"
    return Small(old, asked, results(old), results(new), record(new)["counts"])


@pytest.fixture(scope="module")
def watching(s3_endpoint: str) -> Iterator[Proxy]:
    """A proxy that victims go through."""
    with faulty(s3_endpoint, share=0) as proxy:
        yield proxy


@pytest.fixture
def output(storage: str, job: Small, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """What the old prompts left, in a place of its own."""
    if storage == "local":
        return str(shutil.copytree(job.old, tmp_path / "out"))
    there = str(request.getfixturevalue("s3"))
    for path in job.old.rglob("*.*"):
        write_bytes(join(there, path.relative_to(job.old).as_posix()), path.read_bytes())
    return there


@pytest.fixture
def variables(storage: str, tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment of a victim: on S3 it is the proxy that kills it."""
    if storage == "local":
        return {}
    watching: Proxy = request.getfixturevalue("watching")
    watching.on_put = kill_at_puts(tmp_path / "kills")
    return environment(watching.endpoint)


@pytest.mark.parametrize(
    ("storage", "point"),
    [*(("local", point) for point in KILL_POINTS), *(("s3", point) for point in PUT_KILL_POINTS)],
)
def test_a_kill_at_any_step_changes_nothing(
    point: str, output: str, variables: dict[str, str], processes: Any, job: Small, tmp_path: Path
) -> None:
    """No row ever speaks of another picture, no record of an end that was not reached; the same job again heals it."""
    arm(tmp_path / "kills", f"{point} self")
    process = processes.Process(target=run_and_die, args=(tmp_path / "kills", variables, output, job.asked, NEW))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert pending(tmp_path / "kills") == []
    left = results(output)
    assert left.edits.keys() <= job.after.edits.keys()
    assert record(output)["state"] == "running" or left in (job.before, job.after)
    run(output, job.asked, NEW)
    assert results(output) == job.after
    assert (record(output)["state"], record(output)["counts"]) == ("finished", job.counts)
