"""The machine under a measurement: how fast it multiplies, and how much memory was held at most."""

from __future__ import annotations

import contextlib
import gc
import platform
from collections.abc import Iterator
from typing import Final

import torch

from pipeline.models.measuring import now
from pipeline.quality.speed.resident import Peak, resident_peak

_MATMUL_REPEATS: Final = 12


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


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure until the context ends.

    On a GPU what torch had allocated, weights included; else the resident size of the whole process.
    """
    if device.type != "cuda":
        with resident_peak() as peak:
            yield peak
        return
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    peak = Peak()
    yield peak
    peak.mb = torch.cuda.max_memory_allocated(device) / 1e6
