"""The machine under a measurement: how fast it multiplies, and how much memory was held at most."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from pipeline.models.measuring import now

_MATMUL_REPEATS: Final = 12
_CLEAR_PEAK: Final = "5"  # proc(5): resets VmHWM, the peak resident size, to the current one


def describe(device: torch.device, dtype: torch.dtype) -> str:
    """The machine in words."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return f"{platform.machine()}, {name}, {str(dtype).removeprefix('torch.')}"


def matmul_rate(device: torch.device, dtype: torch.dtype, side: int | None = None) -> float:
    """FLOP/s of a product of two square matrices, the best of several; `side` None is large enough to reach it."""
    side = side or (8192 if device.type == "cuda" else 1536)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(_MATMUL_REPEATS):
        began = now(device)
        a @ b
        seconds.append(now(device) - began)
    return 2 * side**3 / min(seconds)


@dataclass(slots=True)
class Peak:
    """The most memory that was held, in MB of 10⁶ bytes; None while unknown, and where the system does not tell."""

    mb: float | None = None


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure until the context ends.

    On a GPU what torch had allocated, weights included; else the resident size of the whole process, interpreter,
    libraries and weights included, after what earlier work left behind was returned to the system.
    """
    gc.collect()
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.mb = torch.cuda.max_memory_allocated(device) / 1e6
        return
    known = _reset_resident_peak()
    yield peak
    peak.mb = _resident_peak_mb() if known else None


def _reset_resident_peak() -> bool:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text(_CLEAR_PEAK)
    except OSError:  # no Linux, or a container that forbids it
        return False
    return True


def _resident_peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024 / 1e6
