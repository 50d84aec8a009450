"""Joining or starting a Ray cluster, quietly."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, cast

import ray
import ray.data  # sets up its logger, which is then turned down

from pipeline.config import JobConfig
from pipeline.errors import JobError
from pipeline.events import LOG
from pipeline.models.grid import read_grid
from pipeline.models.loading import weights_bytes

# Cores beyond the machine's own that a local cluster is given: fetching and publishing mostly wait, so they
# run beside a model that has all the cores.
_WAITING_CORES: Final = 2
# Microseconds of CPU time in each of so many, of a container (cgroup-v2's cpu.max).
_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
# A local cluster's own processes look for logs that nobody asked for, report what the machine does, and time their own
# events, with time that the model needs (infra/decisions/0023).
_QUIET: Final = {
    "LOG_NAME_UPDATE_INTERVAL_S": "60",
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",  # the interval is for more files than these
    "RAY_event_stats": "0",
    "REPORTER_UPDATE_INTERVAL_MS": "15000",
}
# What an engine actor on CPUs takes, reckoned: its libraries, its model's weights, and for a fit of 16 rows at the
# model's own size some multiple of these (infra/decisions/0023).
_LIBRARIES_BYTES: Final = 1 << 30
_FIT_OVER_WEIGHTS: Final = 7
_FIT_ROWS: Final = 16


@dataclass(frozen=True, slots=True)
class Resources:
    """How many engine actors there are, and what each of them gets."""

    actors: int
    num_gpus: float
    num_cpus: int

    @property
    def device(self) -> str | None:
        """None: the model takes the GPU that Ray shows it."""
        return None if self.num_gpus else "cpu"

    @property
    def row_seconds(self) -> float | None:
        """The time limit of a row where the job names none: on a CPU a large model may take hours."""
        return 600.0 if self.num_gpus else None

    @property
    def dtype(self) -> Literal["bfloat16", "float32"]:
        """The network's precision where the job names none."""
        return "bfloat16" if self.num_gpus else "float32"


def connect(config: JobConfig, rows: int) -> Resources:
    """Join the cluster at `config.address` or `RAY_ADDRESS`, else start one on this machine, for so many images.

    Says so where a joined cluster has no room for any actor, or none for anything but actors.

    Raises:
        JobError: there is no such cluster, or a local one that could never hold the actors.
    """
    address = config.address or os.environ.get("RAY_ADDRESS") or "local"
    if not ray.is_initialized():
        _initialise(address)
    nodes = _nodes()
    has_gpus = any(node.get("GPU", 0.0) for node in nodes)
    num_gpus = config.num_gpus if config.num_gpus is not None else float(has_gpus)
    # Actors of one core lose nothing where other processes take another; the threads of one actor wait for each other.
    small = _Actor(num_gpus, config.num_cpus or 1, 0.0 if num_gpus else _memory(config))
    # Two cores were added to a local cluster's own. In another one GPUs are worth more than the second.
    kept = 1 if num_gpus and address != "local" else _WAITING_CORES
    actors = config.actors or max(1, min(small.room(nodes, kept), rows // config.slots))
    num_cpus = config.num_cpus or (1 if num_gpus else small.cores_of_each(nodes, actors))
    actor = _Actor(num_gpus, num_cpus)
    if address != "local":
        _warn_of_waiting(actor, actors, nodes)
    elif actors > (most := actor.room(nodes, _WAITING_CORES)):
        raise JobError(f"actors: expected at most {most} of {actor} each on this machine; got {actors}")
    return Resources(actors, num_gpus, num_cpus)


def _warn_of_waiting(actor: _Actor, actors: int, nodes: Sequence[Mapping[str, float]]) -> None:
    """Say what makes a job stand still on the nodes that are there; others may join."""
    room, cores = actor.room(nodes, 0), int(sum(node.get("CPU", 0.0) for node in nodes))
    if not room:
        LOG.warning("cluster: no node has room for an engine actor of %s; the job waits for one that has", actor)
    elif cores - min(actors, room) * actor.num_cpus < 1:
        LOG.warning("cluster: engine actors have all %d CPU cores; the job waits for more, or take fewer actors", cores)


def _initialise(address: str) -> None:
    # Left to itself, Ray turns token authentication on in some starts and not in others.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # Actors without GPUs are told so explicitly; Ray need not hide the devices, nor warn that it may.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    local: dict[str, Any] = {}
    if address == "local":
        # The driver's core would warn about Ray Data's own way of starting actors.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        # By default workers yield to whatever else runs here: beside a busy process a job stood still for minutes.
        os.environ.setdefault("RAY_worker_niceness", "0")
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        local = {"num_cpus": _own_cores() + _WAITING_CORES, "include_dashboard": False}
    try:
        with _sigterm_kept():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise JobError(f"ray: no cluster at {address}: {' '.join(str(error).split())[:300]}") from error


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Keep this process's way to take SIGTERM, in place of which Ray sets an exit; one in the middle interrupts."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        if threading.current_thread() is threading.main_thread():  # elsewhere neither Ray nor we can set one
            signal.signal(signal.SIGTERM, before)


def _own_cores() -> int:
    """Of this machine, as far as this process's affinity, and its container's quota, let it use them."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no such file, or no quota: "max"
        quota, period = map(int, _QUOTA.read_text().split())
        cores = min(cores, max(1, quota // period))
    return cores


@dataclass(frozen=True, slots=True)
class _Actor:
    """What an engine actor takes of its node; memory, in bytes, only where it is counted."""

    num_gpus: float
    num_cpus: int
    memory: float = 0.0

    def __str__(self) -> str:
        return f"{self.num_gpus:g} GPUs and " * (self.num_gpus > 0) + f"{self.num_cpus} CPU cores"

    def room(self, nodes: Sequence[Mapping[str, float]], kept: int) -> int:
        """How many actors there is room for, if so many cores of each node are left to the rest of the job."""
        return sum(self._fitting(node, kept) for node in nodes)

    def cores_of_each(self, nodes: Sequence[Mapping[str, float]], actors: int) -> int:
        """The most cores that each of so many actors without GPUs can have; torch uses as many threads."""
        # Where memory is reckoned too small for so many, they are made all the same, and cores count alone.
        like = self if self.room(nodes, _WAITING_CORES) >= actors else replace(self, memory=0.0)
        most = max(int(node.get("CPU", 0.0)) for node in nodes)
        larger = (replace(like, num_cpus=cores) for cores in range(most, 1, -1))
        return next((actor.num_cpus for actor in larger if actor.room(nodes, _WAITING_CORES) >= actors), 1)

    def _fitting(self, node: Mapping[str, float], kept: int) -> int:
        fitting = [max(0, int(node.get("CPU", 0.0)) - kept) // self.num_cpus]
        if self.num_gpus:
            # Ray takes a fraction of one GPU, never of two.
            gpus = int(node.get("GPU", 0.0))
            fitting.append(gpus * int(1 / self.num_gpus) if self.num_gpus < 1 else gpus // int(self.num_gpus))
        if self.memory:
            fitting.append(int(node.get("memory", 0.0) / self.memory))
        return min(fitting)


def _memory(config: JobConfig) -> float:
    """Bytes that an engine actor takes on a CPU."""
    own, asked = (read_grid(config.model, side).side for side in (0, config.max_side))
    rows = config.slots * (asked / own) ** 2
    return _LIBRARIES_BYTES + weights_bytes(config.model) * (1 + _FIT_OVER_WEIGHTS * rows / _FIT_ROWS)


def _nodes() -> list[dict[str, float]]:
    """What each living node has, by Ray's names."""
    nodes = cast("list[dict[str, Any]]", ray.nodes())  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]
