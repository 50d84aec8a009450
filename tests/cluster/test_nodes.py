"""Nodes that come and go while a job runs: real raylets, whose GPUs are only declared."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.core.generated import autoscaler_pb2

from tests.cluster.watched import Watched
from tests.kills.cluster import Killing, killing
from tests.results import Results, results
from tests.small_job import photograph, table, write_inputs

IMAGES = 10
# Batches that an actor is given at a time: one that it works on, and one more.
IN_FLIGHT = 2


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killing]:
    """A head, and one node with one GPU."""
    with killing(tmp_path_factory.mktemp("nodes") / "kills", nodes=0) as found:
        found.add_node(num_gpus=1)
        yield found


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One image at a time, three actors."""
    folder = tmp_path_factory.mktemp("in")
    images, prompts = write_inputs(folder, {f"{i}.png": photograph(i) for i in range(IMAGES)})
    return {"images": images, "prompts": prompts, "batch_size": 1, "actors": 3, "num_gpus": 1}


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    """The engine of a test's job."""
    (tmp_path / "seen").mkdir()
    return Watched(tmp_path / "seen")


@pytest.fixture(scope="module")
def undisturbed(cluster: Killing, job: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What comes of the job with one actor, on one node."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "seen").mkdir()
    assert cluster.run(Watched(folder / "seen"), **{**job, "actors": 1}, output=str(folder / "out")) == 0
    return results(folder / "out")


def until(happened: Callable[[], bool], alive: Callable[[], bool]) -> None:
    """Wait for something while the job goes on."""
    deadline = time.monotonic() + 300
    while not happened():
        assert alive(), "the job is over"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_drained_node_is_left_without_loss(
    cluster: Killing, job: dict[str, Any], watched: Watched, undisturbed: Results, tmp_path: Path
) -> None:
    """A node with notice is given nothing new; what it does not get done, another does, and nobody waits for that."""
    (stays,) = cluster.cluster.worker_nodes
    drained = cluster.add_node(num_gpus=1)
    for node in (stays, drained):  # until both have begun, however long one's actor takes to start
        watched.hold(node.node_id)
    driver = cluster.start(watched, **job, output=str(tmp_path / "out"))
    until(lambda: drained.node_id in {work.node for work in watched.seen()}, driver.is_alive)
    drain(cluster, drained.node_id)
    watched.let_go(stays.node_id)
    until(lambda: len(table(tmp_path / "out", "inversions")) >= IMAGES - IN_FLIGHT, driver.is_alive)
    begun = [work for work in watched.seen() if work.node == drained.node_id]
    assert len(begun) == 1
    cluster.cluster.remove_node(drained, allow_graceful=False)
    driver.join(300)
    assert driver.exitcode == 0
    assert results(tmp_path / "out") == undisturbed
    assert {work.image_id for work in watched.seen() if work.node != drained.node_id} >= {begun[0].image_id}


def test_actors_begin_where_there_is_room_and_on_nodes_that_join(
    cluster: Killing, job: dict[str, Any], watched: Watched, undisturbed: Results, tmp_path: Path
) -> None:
    """A job that asks for three GPUs begins with one, and spreads over the nodes that join, a GPU to an actor."""
    (first,) = cluster.cluster.worker_nodes
    watched.hold(first.node_id)
    driver = cluster.start(watched, **job, output=str(tmp_path / "out"))
    until(lambda: bool(watched.seen()), driver.is_alive)
    joined = [cluster.add_node(num_gpus=1) for _ in range(2)]
    for node in joined:
        watched.hold(node.node_id)
    until(lambda: len(watched.seen()) == 3, driver.is_alive)
    assert {(work.node, work.gpus) for work in watched.seen()} == {(n.node_id, "0") for n in (first, *joined)}
    watched.let_go()
    driver.join(300)
    assert driver.exitcode == 0
    assert results(tmp_path / "out") == undisturbed


def drain(cluster: Killing, node: str) -> None:
    """What `ray drain-node`, the autoscaler, and a node that gets SIGTERM ask of Ray; its end is up to others."""
    accepted, why = ray._raylet.GcsClient(address=cluster.cluster.address).drain_node(
        node,
        autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
        "the machine is taken away",
        int(time.time() * 1000) + 60_000,
    )
    assert accepted, why
