"""Guards against rows that end their process, calls that hang, and GPUs that are lost (infra/decisions/0015)."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from operator import attrgetter, methodcaller
from typing import Any, Final, Protocol

import numpy as np
import torch

from pipeline.errors import JobError, RowError
from pipeline.inversion import Inversion
from pipeline.keys import sha256_hex
from pipeline.memory import is_out_of_memory
from pipeline.settings import EditSettings, InversionSettings
from pipeline.stages.attempts import attempt, deaths_over
from pipeline.stages.child import Child, ChildDiedError, ChildTimedOutError
from pipeline.stages.limits import cut_off, seconds_for
from pipeline.synthesis import EditRequest, Synthesis

_LOG: Final = logging.getLogger("relatent")

# A row that ends its process alone is given this many tries; the batch in which it did so first has been one more.
_TRIES_ALONE: Final = 2
_TRIES_TO_START: Final = 3

# What torch says when a GPU, or this process's use of it, is broken for good. A lack of memory, or of what a GPU
# can do, is none of that.
_OF_DEVICE: Final = re.compile(r"\b(CUDA|HIP|cuDNN) error|\b(CUBLAS|CUDNN|CUSOLVER)_STATUS_")
_NOT_LOST: Final = re.compile(r"_NOT_SUPPORTED|no kernel image")


class Guard(Protocol):
    """Applies an action to an editor for rows of these names."""

    def __call__(self, action: Callable[[Any], Any], rows: Sequence[str]) -> Any: ...


class GuardedEditor:
    """What the engine asks of an `Editor`; each call passes a guard."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    @cached_property
    def model_name(self) -> str:
        return str(self._guard(attrgetter("model_name"), ["model_name"]))

    def invert_rows(
        self, images: Sequence[Any], source_prompts: Sequence[str], settings: InversionSettings
    ) -> list[Inversion | RowError]:
        shown = [sha256_hex(np.asarray(image).tobytes()) for image in images]
        rows = [f"invert {image} {prompt}" for image, prompt in zip(shown, source_prompts, strict=True)]
        return list(self._guard(methodcaller("invert_rows", images, source_prompts, settings), rows))

    def restore_rows(self, inversions: Sequence[Inversion]) -> list[Inversion]:
        rows = [f"restore {_name(inversion)}" for inversion in inversions]
        return list(self._guard(methodcaller("restore_rows", inversions), rows))

    def edit_rows(
        self, inversions: Sequence[Inversion], requests: Sequence[EditRequest], settings: EditSettings
    ) -> list[Synthesis | RowError]:
        rows = [f"edit {_name(inversions[request.inversion])} {request}" for request in requests]
        return list(self._guard(methodcaller("edit_rows", inversions, requests, settings), rows))


def _name(inversion: Inversion) -> str:
    """What tells it from others, also once it was made again."""
    return f"{inversion.vae_psnr!r} {inversion.size} {inversion.source_prompt}"


class InProcess:
    """Calls in this process, as fast as can be. Over one that hangs, or a GPU that is lost, the process ends itself.

    Whoever starts it again should guard it by `InChild`, to find the row.
    """

    def __init__(self, editor: Any, row_seconds: float | None) -> None:
        self._editor = editor
        self._row_seconds = row_seconds

    def __call__(self, action: Callable[[Any], Any], rows: Sequence[str]) -> Any:
        with cut_off(seconds_for(len(rows), self._row_seconds)):
            try:
                return action(self._editor)
            except Exception as error:
                if is_device_lost(error):
                    _LOG.critical("the GPU is lost to this process, which ends: %s", error)
                    os._exit(1)
                raise


class InChild:
    """Calls in a process of its own: of a batch that ends it nobody is blamed, of a row alone that row is.

    So it is where not that process ends, but the one that waits for it: it is Ray's own workers that Ray ends for want
    of memory.

    Args:
        load: makes the editor, or whatever is called, there.
        run: whose notes tell how often that happened.
        row_seconds: the most that a call may take for each of its rows; None: for ever.
        waiting: seconds that a call may take beside that.
    """

    def __init__(self, load: Callable[[], Any], run: str, row_seconds: float | None, waiting: float = 0.0) -> None:
        self._child = Child(load)
        self._run = run
        self._row_seconds = row_seconds
        self._waiting = waiting

    def __call__(self, action: Callable[[Any], Any], rows: Sequence[str]) -> Any:
        most = _TRIES_ALONE if len(rows) == 1 else 1
        deaths = deaths_over(self._run, "apart", rows)
        if deaths >= most:  # and the note stays, for whoever begins this batch again because of another of its rows
            raise RowError("worker_died", f"{deaths} workers were killed while it was worked on apart: out of memory?")
        with attempt(self._run, "apart", rows):
            for _ in range(most - deaths - 1):
                try:
                    return self._once(action, len(rows))
                except RowError as error:
                    if error.code not in {"worker_died", "device_lost"}:
                        raise
            return self._once(action, len(rows))

    def close(self) -> None:
        """End the process."""
        self._child.close()

    def _once(self, action: Callable[[Any], Any], rows: int) -> Any:
        self._load()
        try:
            return self._child.call(action, seconds_for(rows, self._row_seconds, self._waiting))
        except ChildDiedError as error:
            raise RowError("worker_died", f"the process that worked on it {error}") from error
        except ChildTimedOutError as error:
            raise RowError("timed_out", f"{error}, and was cut off") from error
        except Exception as error:
            if not is_device_lost(error):
                raise
            self._child.close()
            raise RowError("device_lost", str(error).splitlines()[0]) from error

    def _load(self) -> None:
        """Start the process, if it does not run; no row is to blame for what happens before it is ready."""
        for tries in range(1, _TRIES_TO_START + 1):
            try:
                return self._child.start()
            except ChildDiedError as error:
                if tries == _TRIES_TO_START:
                    raise JobError(f"model: the process that loads it died {tries} times; it {error}") from error
        return None


def is_device_lost(error: BaseException) -> bool:
    """Whether after this error every later call on the GPU will fail, too, as long as the process lives.

    CUDA: an illegal memory access, a failed device-side assertion and their like leave the context unusable.
    """
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    text = str(error)
    of_device = isinstance(error, torch.AcceleratorError) or _OF_DEVICE.search(text) is not None
    return of_device and _NOT_LOST.search(text) is None
