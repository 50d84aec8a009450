"""Joining or starting a Ray cluster, quietly."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import ray
import ray.data  # sets up its logger, which is then turned down

from pipeline.config import JobConfig
from pipeline.errors import JobError
from pipeline.models.loading import weights_bytes

# Cores beyond the machine's own that a local cluster is given: fetching and publishing mostly wait, so they
# run beside a model that has all the cores.
_WAITING_CORES: Final = 2
# What an engine actor on CPUs takes, reckoned: its libraries, and as a multiple of the weights, which are in it, a fit
# of 16 rows. Measured: 7, both of the bundled model and at the size of Stable Diffusion 1.5.
_LIBRARIES_BYTES: Final = 1 << 30
_FIT_OVER_WEIGHTS: Final = 8


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
    """Of this machine."""
    return os.cpu_count() or 1


def _room(config: JobConfig, num_gpus: float) -> int:
    """How many engine actors the nodes have room for: on their GPUs, or on their cores and in their memory."""
    if num_gpus:
        return sum(int(node.get("GPU", 0.0) / num_gpus) for node in _nodes())
    # Actors with a core each lose nothing where other processes take one; threads of one actor wait for each other.
    cores, memory = config.num_cpus or 1, _LIBRARIES_BYTES + _FIT_OVER_WEIGHTS * weights_bytes(config.model)
    return sum(
        min((int(node.get("CPU", 0.0)) - _WAITING_CORES) // cores, int(node.get("memory", 0.0) / memory))
        for node in _nodes()
    )


def _cores_per_actor(actors: int) -> int:
    """Cores of one engine actor on a cluster without GPUs; torch uses as many threads."""
    nodes = _nodes()
    biggest = int(max(node.get("CPU", 0.0) for node in nodes)) - _WAITING_CORES
    return max(1, biggest // -(-actors // len(nodes)))


def _nodes() -> list[dict[str, float]]:
    """What each living node has, by Ray's names."""
    nodes = cast("list[dict[str, Any]]", ray.nodes())  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]
