"""A target that does whatever the harness must notice; in a module, so that the child process can import it."""

from __future__ import annotations

import ctypes
import time


def misbehave(data: bytes) -> str:
    """What a file asks for."""
    if data == b"crash":
        ctypes.string_at(0)
    if data == b"hang":
        time.sleep(60)
    if data == b"memory":
        bytearray(1 << 31)
    if data == b"raise":
        raise ValueError("of its own")
    return "fine"
