"""How much memory this process held at most, as the system tells it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CLEAR_PEAK: Final = "5"  # proc(5): resets VmHWM, the peak resident size, to the current one


@dataclass(slots=True)
class Peak:
    """The most memory that was held, in MB of 10⁶ bytes; None while unknown, and where the system does not tell."""

    mb: float | None = None


@contextlib.contextmanager
def resident_peak() -> Iterator[Peak]:
    """Measure until the context ends: interpreter and libraries included, what earlier work left behind returned."""
    gc.collect()
    known, peak = _reset(), Peak()
    yield peak
    peak.mb = _read_mb() if known else None


def _reset() -> bool:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text(_CLEAR_PEAK)
    except OSError:  # no Linux, or a container that forbids it
        return False
    return True


def _read_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024 / 1e6
