"""How many bytes this process has read and written; whole files only, not the ranges of Parquet files."""

from __future__ import annotations

import threading
from typing import Literal

Direction = Literal["in", "out"]

_lock = threading.Lock()
_total: dict[Direction, int] = {"in": 0, "out": 0}


def transferred(direction: Direction, count: int) -> None:
    """Add to what has been read or written."""
    with _lock:
        _total[direction] += count


def transfers() -> dict[Direction, int]:
    """Bytes so far, since the process began."""
    with _lock:
        return dict(_total)
