"""A real cluster on this machine whose processes can be killed at a step of a commit, and drivers for it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from ray._private.node import Node
from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray.cluster_utils import Cluster

from pipeline.cluster.execution import execute
from pipeline.cluster.graph import LoadEngine, load_engine
from pipeline.config import JobConfig
from pipeline.planning import read_plan
from tests.kills.points import be_the_driver, environment, install

_CPUS: Final = 3
_OBJECT_STORE: Final = 100 * 2**20
# Nodes and drivers have to agree on the first. Workers are nice by default, and starve beside whatever else is running.
_OF_RAY: Final = {"RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}


@dataclass(frozen=True)
class Killing:
    """A cluster, and the folder that says what to kill.

    Attributes:
        cluster: a head that does no work, and nodes that do.
        kills: as in `tests.kills.points`.
    """

    cluster: Cluster
    kills: Path

    def add_node(self, num_gpus: int = 0) -> Node:
        """One more raylet; its GPUs need not be there."""
        with patch.dict(os.environ, self._environment()):
            return self.cluster.add_node(num_cpus=_CPUS, num_gpus=num_gpus, object_store_memory=_OBJECT_STORE)

    @property
    def raylets(self) -> list[int]:
        """The process of each working node."""
        return [node.all_processes[PROCESS_TYPE_RAYLET][0].process.pid for node in self.cluster.worker_nodes]

    def mend(self) -> None:
        """Put a new node in the place of each that was killed, as happens to spot machines."""
        for node in list(self.cluster.worker_nodes):
            if node.dead_processes():
                self.cluster.remove_node(node, allow_graceful=False)
                self.add_node()

    def start(self, load: LoadEngine = load_engine, **config: Any) -> BaseProcess:
        """Start a driver of `relatent run`."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        config = {"address": self.cluster.address, **config}
        # The server may have been started before the environment was what it is now.
        process = context.Process(target=_drive, args=(self.kills, config, load, dict(os.environ)), daemon=True)
        process.start()
        return process

    def run(self, load: LoadEngine = load_engine, **config: Any) -> int:
        """The exit code of a driver: negative if it was killed."""
        process = self.start(load, **config)
        process.join(600)
        assert process.exitcode is not None, "the driver hangs"
        return process.exitcode

    def _environment(self) -> dict[str, str]:
        return {**environment(self.kills), **_OF_RAY}


@contextmanager
def killing(kills: Path, nodes: int) -> Iterator[Killing]:
    """Run a cluster of that many working nodes."""
    kills.mkdir(exist_ok=True)
    with patch.dict(os.environ, _OF_RAY):
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "object_store_memory": _OBJECT_STORE, "include_dashboard": False},
        )
    try:
        found = Killing(cluster, kills)
        for _ in range(nodes):
            found.add_node()
        yield found
    finally:
        cluster.shutdown()


def _drive(kills: Path, config: Mapping[str, Any], load: LoadEngine, environment: Mapping[str, str]) -> None:
    os.environ.update(environment)
    be_the_driver(kills)
    install(kills)
    execute(read_plan("run", JobConfig(**config)), lambda counts: None, load=load)
