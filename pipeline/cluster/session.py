"""Joining or starting a Ray cluster, quietly."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

import ray
import ray.data  # sets up its logger, which is then turned down

from pipeline.config import JobConfig
from pipeline.errors import JobError
from pipeline.models.grid import read_grid
from pipeline.models.loading import weights_bytes

# Cores beyond the machine's own that a local cluster is given: fetching and publishing mostly wait, so they
# run beside a model that has all the cores.
_WAITING_CORES: Final = 2
# Microseconds of CPU time in each of so many, of a container (cgroup-v2's cpu.max).
_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
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

    Raises:
        JobError: there is no such cluster, or a local one that could never hold the actors.
    """
    address = config.address or os.environ.get("RAY_ADDRESS") or "local"
    if not ray.is_initialized():
        _initialise(address)
    gpus = float(ray.cluster_resources().get("GPU", 0.0))  # type: ignore[no-untyped-call]
    num_gpus = config.num_gpus if config.num_gpus is not None else float(gpus > 0)
    actors = config.actors or max(1, min(_room(config, num_gpus), rows // config.slots))
    if address == "local" and num_gpus * actors > gpus:
        raise JobError(f"actors: expected at most {gpus:g} GPUs' worth; got {actors} × {num_gpus:g}")
    num_cpus = config.num_cpus or (1 if num_gpus else _cores_per_actor(actors))
    if address == "local" and num_cpus * actors > _own_cores():
        raise JobError(f"actors: expected at most {_own_cores()} CPU cores' worth; got {actors} × {num_cpus}")
    return Resources(actors, num_gpus, num_cpus)


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


def _room(config: JobConfig, num_gpus: float) -> int:
    """How many engine actors the nodes have room for: on their cores, and on their GPUs or in their memory."""
    scarce, each = ("GPU", num_gpus) if num_gpus else ("memory", _memory(config))
    # Actors of one core lose nothing where other processes take another; the threads of one actor wait for each other.
    cores = config.num_cpus or 1
    # GPUs are worth more than that the rest of the job has two cores beside them.
    kept = 1 if num_gpus else _WAITING_CORES
    return sum(min(_cores(node, kept) // cores, int(node.get(scarce, 0.0) / each)) for node in _nodes())


def _cores_per_actor(actors: int) -> int:
    """The most cores that each of so many engine actors without GPUs can have; torch uses as many threads."""
    cores = [_cores(node) for node in _nodes()]
    fitting = (each for each in range(max(cores), 0, -1) if sum(of // each for of in cores) >= actors)
    return next(fitting, 1)


def _cores(node: Mapping[str, float], kept: int = _WAITING_CORES) -> int:
    """Of a node's cores those that may be engine actors': fetching and publishing have to run, too."""
    return max(0, int(node.get("CPU", 0.0)) - kept)


def _memory(config: JobConfig) -> float:
    """Bytes that an engine actor takes on a CPU."""
    own, asked = (read_grid(config.model, side).side for side in (0, config.max_side))
    rows = config.slots * (asked / own) ** 2
    return _LIBRARIES_BYTES + weights_bytes(config.model) * (1 + _FIT_OVER_WEIGHTS * rows / _FIT_ROWS)


def _nodes() -> list[dict[str, float]]:
    """What each living node has, by Ray's names."""
    nodes = cast("list[dict[str, Any]]", ray.nodes())  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]
