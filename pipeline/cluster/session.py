"""Joining or starting a Ray cluster, quietly."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

import ray
import ray.data  # sets up its logger, which is then turned down

from pipeline.config import JobConfig
from pipeline.errors import JobError

# Cores beyond the machine's own that a local cluster is given: fetching and publishing mostly wait, so they
# run beside a model that has all the cores.
_WAITING_CORES: Final = 2


@dataclass(frozen=True, slots=True)
class Resources:
    """What one engine actor gets."""

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


def connect(config: JobConfig) -> Resources:
    """Join the cluster at `config.address` or `RAY_ADDRESS`, else start one on this machine.

    Raises:
        JobError: there is no such cluster, or a local one that could never hold the actors.
    """
    address = config.address or os.environ.get("RAY_ADDRESS") or "local"
    if not ray.is_initialized():
        _initialise(address)
    gpus = float(ray.cluster_resources().get("GPU", 0.0))  # type: ignore[no-untyped-call]
    num_gpus = config.num_gpus if config.num_gpus is not None else float(gpus > 0)
    if address == "local" and num_gpus * config.actors > gpus:
        raise JobError(f"actors: expected at most {gpus:g} GPUs' worth; got {config.actors} × {num_gpus:g}")
    num_cpus = config.num_cpus or (1 if num_gpus else _cores_per_actor(config.actors))
    if address == "local" and num_cpus * config.actors > _own_cores():
        raise JobError(f"actors: expected at most {_own_cores()} CPU cores' worth; got {config.actors} × {num_cpus}")
    return Resources(num_gpus, num_cpus)


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


def _cores_per_actor(actors: int) -> int:
    """Cores of one engine actor on a cluster without GPUs; torch uses as many threads."""
    nodes = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    biggest = int(max(nodes)) - _WAITING_CORES
    return max(1, biggest // -(-actors // len(nodes)))
