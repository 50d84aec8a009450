"""Time limits of calls that cannot be interrupted."""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# An image, a mask and an artifact may each have to wait until a storage answers again.
STORAGE_SECONDS: Final = 900.0
# To decode an image, or to composite and encode its pictures, on any machine.
PICTURE_SECONDS: Final = 60.0


def seconds_for(rows: int, row_seconds: float | None, waiting: float = 0.0) -> float | None:
    """The most that a call for so many rows may take beside waiting; None: for ever."""
    return None if row_seconds is None else rows * row_seconds + waiting


@contextmanager
def cut_off(seconds: float | None) -> Iterator[None]:
    """End this process, with all threads' stacks on standard error, if the context lasts longer than that.

    It works where a native call hangs and holds Python's lock, too: faulthandler has a thread of its own for it.
    """
    if seconds is None:
        yield
        return
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or 2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
