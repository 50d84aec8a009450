"""A run ends at its budget, and goes on from there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.cluster import graph
from pipeline.cluster.session import Resources
from pipeline.cluster.tables import PART, part_schema, to_table
from pipeline.config import JobConfig
from pipeline.counts import Counts
from tests.small_job import photograph, write_inputs


def test_a_spent_budget_ends_a_run_and_the_next_one_goes_on(
    run: Callable[..., Counts], output: Path, tmp_path: Path
) -> None:
    """Nothing is tried past the limit, no record says that the job is done, and the same command does the rest."""
    images, prompts = write_inputs(tmp_path / "in", {f"{i}.png": photograph(i) for i in range(4)})
    job = {"images": images, "prompts": prompts, "output": str(output)}
    assert run("run", **job, budget_gpu_hours=1e-9) == Counts()
    assert json.loads((output / "run.json").read_text())["state"] == "running"
    counts = run("run", **job, budget_gpu_hours=10)
    assert (counts.inverted, counts.edited, counts.failures) == (4, 10, 0)
    assert json.loads((output / "run.json").read_text())["state"] == "finished"


def test_what_is_in_the_works_is_handed_on() -> None:
    """An actor whose time runs out over a batch hands on the part that it has in hand, and begins no other."""
    row = pa.schema([("image_id", pa.string()), ("status", pa.string()), ("inversion", pa.string())])
    parts = part_schema(row)
    actor = graph._EngineActor(JobConfig(), None, None, parts, time.time() + 0.2, "run")

    def engine(rows: list[Any]) -> Iterator[list[Any]]:
        for _ in range(3):
            time.sleep(0.15)
            yield rows

    actor.__dict__["_engine"] = engine
    batch = to_table([{PART: [{"image_id": "a", "status": "work", "inversion": None}]}], parts)
    assert len(list(actor(batch))) == 2
    assert list(actor(batch)) == []


def test_the_budget_is_shared_by_the_gpus_that_are_held() -> None:
    """Four actors on half a GPU each have half the time that one GPU has; without GPUs, actors count."""
    config = JobConfig(budget_gpu_hours=1.0)
    for gpus, hours in ((0.5, 0.5), (1.0, 0.25), (0.0, 0.25)):
        assert abs(graph.deadline_of(config, Resources(4, gpus, 1)) - time.time() - hours * 3600) < 60
    assert graph.deadline_of(JobConfig(), Resources(1, 1.0, 1)) == float("inf")
