"""The machine under a measurement: how fast it multiplies, and how much memory was held at most."""

from __future__ import annotations

import contextlib
import gc
import platform
from collections.abc import Callable, Iterator
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from pipeline.models.measuring import now
from pipeline.quality.speed.resident import Peak, resident_peak

_MATMUL_REPEATS: Final = 12


def describe(device: torch.device, dtype: torch.dtype) -> str:
    """The machine in words."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return f"{platform.machine()}, {name}, {str(dtype).removeprefix('torch.')}"


def matmul_rate(device: torch.device, dtype: torch.dtype, side: int | None = None) -> float:
    """FLOP/s of a matrix product, the best of several; `side` None is large enough to reach it.

    Of two square matrices, or within a convolution: on CPUs another library computes these, and some twice as fast.
    """
    side = side or (8192 if device.type == "cuda" else 1536)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    (n, channels), cells = (4, 256), 32
    x = torch.randn(n, channels, cells, cells, device=device).to(dtype)
    kernel = torch.randn(channels, channels, 3, 3, device=device).to(dtype)
    product = 2 * side**3 / _least_seconds(device, lambda: a @ b)
    convolution = 2 * n * cells**2 * 9 * channels**2 / _least_seconds(device, lambda: conv2d(x, kernel, padding=1))
    return max(product, convolution)


def _least_seconds(device: torch.device, call: Callable[[], Tensor]) -> float:
    seconds = []
    for _ in range(_MATMUL_REPEATS):
        began = now(device)
        call()
        seconds.append(now(device) - began)
    return min(seconds)


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
