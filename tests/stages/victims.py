"""Objects that end, hang or lose their process; light, since each test starts several."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.stages.attempts import attempt
from pipeline.stages.limits import cut_off

LOST = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported"


class Victim:
    """Not an editor: its edits are prompts in capitals, but for those that say what is to happen instead."""

    model_name = "victim"

    def __init__(self, log: Path) -> None:
        self._log = log
        self._is_lost = False

    def edit_rows(self, inversions: Sequence[Any], requests: Sequence[str], settings: Any) -> list[str]:
        with self._log.open("a") as log:
            log.write(" ".join(requests) + "\n")
        if self._is_lost or "lost" in requests:
            self._is_lost = True  # as a GPU's context is to its process
            raise RuntimeError(LOST)
        if "segfault" in requests:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "hang" in requests:
            time.sleep(60)
        if "wrong" in requests:
            raise ValueError("wrong")
        return [request.upper() for request in requests]


def cannot_start() -> None:
    """Die before there is anything to call."""
    os.kill(os.getpid(), signal.SIGKILL)


def hang_with_the_lock(_: Any) -> None:
    """A native call that neither returns nor lets another thread run, under a time limit."""
    with cut_off(0.2):
        ctypes.PyDLL(None).sleep(60)


def die_over(_: Any) -> None:
    """Die at work."""
    with attempt("run", "stage", ["a", "b"]):
        os.kill(os.getpid(), signal.SIGKILL)
