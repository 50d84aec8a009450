"""How many engine actors a job has, and what each gets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.cluster import session
from tests.commands import ROOT

# A cluster of nodes that say to have so much; whether they have, nothing asks that only connects.
_CONNECTS = """
import dataclasses, json, sys
import ray
from ray.cluster_utils import Cluster
from pipeline.cluster.session import connect
from pipeline.config import JobConfig

nodes, jobs = json.loads(sys.argv[1])
cluster = Cluster(initialize_head=True, head_node_args=nodes[0] | {"include_dashboard": False})
for node in nodes[1:]:
    cluster.add_node(**node)
ray.init(address=cluster.address, logging_level="ERROR")
for job in jobs:
    rows = job.pop("rows")
    print(json.dumps(dataclasses.asdict(connect(JobConfig(address=cluster.address, **job), rows))))
ray.shutdown()
cluster.shutdown()
"""


def _connected(
    nodes: list[dict[str, Any]], jobs: list[dict[str, Any]]
) -> tuple[list[tuple[int, float, int]], list[str]]:
    """Actors, and GPUs and cores of each, of jobs on a head and other nodes; and what was said of them."""
    words = [sys.executable, "-c", _CONNECTS, json.dumps([nodes, jobs])]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    said = [line for line in done.stderr.splitlines() if line.startswith("cluster: ")]
    return [(one["actors"], one["num_gpus"], one["num_cpus"]) for one in found], said


def _check(nodes: list[dict[str, Any]], jobs: list[tuple[dict[str, Any], tuple[int, float, int]]]) -> None:
    asked, expected = zip(*jobs, strict=True)
    found, _ = _connected(nodes, list(asked))
    assert found == list(expected)


def test_without_gpus_each_core_has_an_actor_that_fills_its_slots_and_for_which_there_is_memory() -> None:
    """Two cores stay for fetching and publishing; fewer actors have more cores each; what a job says is taken."""
    _check(
        [{"num_cpus": 6, "memory": 9 << 30}],
        [
            ({"rows": 1000}, (4, 0, 1)),
            ({"rows": 47}, (2, 0, 2)),
            ({"rows": 47, "slots": 8}, (4, 0, 1)),
            ({"rows": 5}, (1, 0, 4)),
            ({"rows": 0}, (1, 0, 4)),
            ({"rows": 1000, "num_cpus": 2}, (2, 0, 2)),
            ({"rows": 1000, "num_cpus": 5}, (1, 0, 5)),
            ({"rows": 5, "actors": 4}, (4, 0, 1)),
            ({"rows": 5, "actors": 9}, (9, 0, 1)),
            # Rows at once, and their size, take the memory: the bundled model works at 64 pixels.
            ({"rows": 1000, "slots": 128}, (2, 0, 2)),
            ({"rows": 1000, "max_side": 192}, (2, 0, 2)),
            # Who wants more, or where there is memory for none, has the cores in any case.
            ({"rows": 1000, "slots": 128, "actors": 4}, (4, 0, 1)),
            ({"rows": 1000, "max_side": 960}, (1, 0, 4)),
        ],
    )


def test_actors_on_cores_of_unequal_nodes_leave_room_for_the_rest_of_the_job() -> None:
    """A head that does no work gives no core, and takes none of another node's; no actor is larger than its node."""
    _check(
        [{"num_cpus": 0}, {"num_cpus": 14, "memory": 64 << 30}, {"num_cpus": 4, "memory": 64 << 30}],
        [
            ({"rows": 1000}, (14, 0, 1)),
            ({"rows": 130}, (8, 0, 1)),
            ({"rows": 100}, (6, 0, 2)),
            ({"rows": 5, "actors": 3}, (3, 0, 4)),
        ],
    )


def test_actors_have_cores_where_there_is_memory_for_them() -> None:
    """The cores of a node that has no memory for an actor say nothing about how large one may be."""
    _check(
        [{"num_cpus": 6, "memory": 9 << 30}, {"num_cpus": 34, "memory": 1 << 30}],
        [({"rows": 1000, "slots": 128}, (2, 0, 2))],
    )


def test_a_job_that_would_stand_still_on_the_nodes_that_are_there_says_so() -> None:
    """Others may join; until then nothing could be fetched, or no model loaded."""
    _, said = _connected(
        [{"num_cpus": 2}, {"num_cpus": 2, "num_gpus": 1}],
        [
            {"rows": 5, "actors": 3, "num_gpus": 0},
            {"rows": 5, "actors": 4, "num_gpus": 0},
            {"rows": 5, "num_cpus": 3, "num_gpus": 0},
            {"rows": 5, "num_gpus": 2},
            {"rows": 5},
        ],
    )
    assert said == [
        "cluster: engine actors have all 4 CPU cores; the job waits for more, or take fewer actors",
        "cluster: no node has room for an engine actor of 3 CPU cores; the job waits for one that has",
        "cluster: no node has room for an engine actor of 2 GPUs and 1 CPU cores; the job waits for one that has",
    ]


def test_each_gpu_has_an_actor_that_fills_its_slots_and_for_which_there_is_a_core() -> None:
    """Actors that share a GPU are as many as share it; one core of a node is left to the rest of the job."""
    _check(
        [{"num_cpus": 6, "num_gpus": 2}, {"num_cpus": 3, "num_gpus": 4}, {"num_cpus": 2, "num_gpus": 1}],
        [
            ({"rows": 1000}, (5, 1, 1)),
            ({"rows": 20}, (1, 1, 1)),
            ({"rows": 1000, "num_gpus": 0.5}, (7, 0.5, 1)),
            # No actor has parts of two GPUs.
            ({"rows": 1000, "num_gpus": 0.6}, (5, 0.6, 1)),
            ({"rows": 1000, "actors": 8}, (8, 1, 1)),
        ],
    )


def test_cores_of_this_machine_are_those_that_may_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than a container's quota, of which a part of a core is a core."""
    monkeypatch.setattr(session, "_QUOTA", tmp_path / "cpu.max")
    every = session._own_cores()
    for quota, cores in (("max 100000", every), ("50000 100000", 1), ("100000000 100000", every)):
        (tmp_path / "cpu.max").write_text(quota + "\n")
        assert session._own_cores() == cores
