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
    """Not an editor: it has prompts in capitals for inversions, but for those that say what is to happen instead."""

    model_name = "victim"

    def __init__(self, log: Path) -> None:
        self._log = log
        self._is_lost = False

    def invert_rows(self, images: Sequence[Any], prompts: Sequence[str], settings: Any) -> list[str]:
        with self._log.open("a") as log:
            log.write(" ".join(prompts) + "\n")
        if self._is_lost or "lost" in prompts:
            self._is_lost = True  # as a GPU's context is to its process
            raise RuntimeError(LOST)
        if "segfault" in prompts:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "hang" in prompts:
            time.sleep(60)
        if "wrong" in prompts:
            raise ValueError("wrong")
        if "orphan" in prompts:  # as Ray's memory monitor kills its worker, and not what the worker started
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        return [prompt.upper() for prompt in prompts]


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
