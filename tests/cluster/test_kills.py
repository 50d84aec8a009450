"""Processes and a node of a real cluster are killed −9 at steps of a commit."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.counts import Counts
from pipeline.io.storage import list_files
from tests.kills.cluster import Killing, killing
from tests.kills.points import arm, pending
from tests.results import Results, results
from tests.small_job import SETTINGS, photograph, write_inputs

# Steps of those who publish: the same task goes on after each, in another process.
OF_WORKERS = ("within inversions self", "before edits actor", "after edits self")
# Steps at which the driver dies, each in a run of its own over what the one before left.
OF_THE_DRIVER = ("after inversions driver", "within run self")


@pytest.fixture(scope="module")
def killable(tmp_path_factory: pytest.TempPathFactory, s3_endpoint: str) -> Iterator[Killing]:
    """A cluster of two nodes."""
    with killing(tmp_path_factory.mktemp("kills") / "kills", nodes=2) as found:
        yield found


@pytest.fixture
def job(tmp_path: Path, model: str) -> dict[str, Any]:
    """One row at a time: what is left after a kill is then batched as it was, and comes out the same to the byte."""
    images, prompts = write_inputs(tmp_path / "in", {**{f"{i}.png": photograph(i) for i in range(2)}, "gone.png": None})
    return {"images": images, "prompts": prompts, "model": model, "inversion": SETTINGS, "batch_size": 1}


@pytest.fixture
def undisturbed(run: Callable[..., Counts], job: dict[str, Any], tmp_path: Path) -> Results:
    """What comes of the job if nothing happens to it."""
    run("run", **job, output=str(tmp_path / "undisturbed"))
    return results(tmp_path / "undisturbed")


def test_killed_drivers_lose_and_double_nothing(
    killable: Killing, job: dict[str, Any], undisturbed: Results, tmp_path: Path
) -> None:
    """Killed again and again on its way, the same command gives in the end what it gives undisturbed."""
    output = str(tmp_path / "out")
    for point in OF_THE_DRIVER:
        arm(killable.kills, point)
        assert killable.run(**job, output=output) == -signal.SIGKILL
        assert pending(killable.kills) == []
        results(output)
    assert killable.run(**job, output=output) == 0
    assert results(output) == undisturbed


def test_a_driver_killed_over_s3_loses_and_doubles_nothing(
    killable: Killing, job: dict[str, Any], undisturbed: Results, s3: str
) -> None:
    """On S3, too, and at once: the lease of a dead process of this machine is not waited for."""
    driver = killable.start(**job, output=s3)
    deadline = time.monotonic() + 300
    while not list_files(f"{s3}/edits", ".parquet"):
        assert driver.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    driver.kill()
    driver.join()
    results(s3)
    assert killable.run(**job, output=s3) == 0
    assert results(s3) == undisturbed


def test_killed_workers_and_a_killed_node_cost_nothing(
    killable: Killing, job: dict[str, Any], undisturbed: Results, tmp_path: Path
) -> None:
    """The run goes on by itself, on what nodes there are, and ends with all that was asked for."""
    for kills in (OF_WORKERS, ("after picture node",)):
        output = tmp_path / kills[0]
        arm(killable.kills, *kills)
        assert killable.run(**job, output=str(output)) == 0
        assert pending(killable.kills) == []
        assert results(output) == undisturbed
        counts, expected = (
            json.loads((o / "run.json").read_text())["counts"] for o in (output, tmp_path / "undisturbed")
        )
        assert counts == expected
