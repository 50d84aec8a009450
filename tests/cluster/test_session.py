"""How many engine actors a job has, and what each gets."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.commands import ROOT

# A cluster of one node that says to have so much; whether it has, nothing asks that only connects.
_CONNECTS = """
import dataclasses, json, sys
import ray
from pipeline.cluster.session import connect
from pipeline.config import JobConfig

node, jobs = json.loads(sys.argv[1])
ray.init(include_dashboard=False, logging_level="ERROR", **node)
for job in jobs:
    rows = job.pop("rows")
    print(json.dumps(dataclasses.asdict(connect(JobConfig(address="auto", **job), rows))))
"""


def _connected(node: dict[str, Any], jobs: list[dict[str, Any]]) -> list[tuple[int, float, int]]:
    """Actors, and GPUs and cores of each, of jobs on a node."""
    words = [sys.executable, "-c", _CONNECTS, json.dumps([node, jobs])]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return [(one["actors"], one["num_gpus"], one["num_cpus"]) for one in found]


def test_without_gpus_each_core_has_an_actor_that_fills_its_slots_and_for_which_there_is_memory() -> None:
    """Two cores stay for fetching and publishing; fewer actors have more cores each; what a job says is taken."""
    jobs: list[tuple[dict[str, Any], tuple[int, float, int]]] = [
        ({"rows": 1000}, (4, 0, 1)),
        ({"rows": 47}, (2, 0, 2)),
        ({"rows": 47, "slots": 8}, (4, 0, 1)),
        ({"rows": 5}, (1, 0, 4)),
        ({"rows": 0}, (1, 0, 4)),
        ({"rows": 1000, "num_cpus": 2}, (2, 0, 2)),
        ({"rows": 5, "actors": 4}, (4, 0, 1)),
    ]
    asked, expected = zip(*jobs, strict=True)
    assert _connected({"num_cpus": 6, "_memory": 64 << 30}, list(asked)) == list(expected)


def test_each_actor_without_a_gpu_has_memory_for_its_model() -> None:
    """The bundled model's takes 1.4 GiB."""
    assert _connected({"num_cpus": 6, "_memory": 3 << 30}, [{"rows": 1000}]) == [(2, 0, 2)]


def test_each_gpu_has_an_actor_that_fills_its_slots() -> None:
    """Actors that share a GPU are as many as share it."""
    jobs: list[tuple[dict[str, Any], tuple[int, float, int]]] = [
        ({"rows": 1000}, (2, 1, 1)),
        ({"rows": 20}, (1, 1, 1)),
        ({"rows": 1000, "num_gpus": 0.5}, (4, 0.5, 1)),
        ({"rows": 1000, "num_gpus": 0}, (4, 0, 1)),
        ({"rows": 1000, "actors": 8}, (8, 1, 1)),
    ]
    asked, expected = zip(*jobs, strict=True)
    assert _connected({"num_cpus": 6, "num_gpus": 2, "_memory": 64 << 30}, list(asked)) == list(expected)
