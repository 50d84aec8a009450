"""Run a decoder over many files in a child process: a crash, a hang or a lack of memory costs that process alone."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

_STARTED: Final = "started"

Target = Callable[[bytes], str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one file.

    Attributes:
        result: the target's word for it; else `crash`, `hang`, or `exception` with what was raised.
        ms: how long it took.
        peak_mb: the most memory that the child has held so far, beyond what it held before its first file.
    """

    result: str
    ms: float
    peak_mb: float


def outcomes(target: Target, files: Iterable[bytes], limit_s: float, limit_mb: int) -> Iterator[Outcome]:
    """Give each file to `target` in a child process; one that dies or is too slow is replaced.

    Args:
        target: a module's function, of bytes to a word.
        files: what it is given.
        limit_s: seconds per file.
        limit_mb: address space of the child, in MB.
    """
    child = _Child(target, limit_mb)
    try:
        for data in files:
            outcome = child.run(data, limit_s)
            if outcome.result in {"crash", "hang"}:
                child.end()
                child = _Child(target, limit_mb)
            yield outcome
    finally:
        child.end()


class _Child:
    def __init__(self, target: Target, limit_mb: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(target, theirs, limit_mb), daemon=True)
        self._process.start()
        theirs.close()
        assert self._ours.recv() == _STARTED

    def run(self, data: bytes, limit_s: float) -> Outcome:
        start = time.perf_counter()
        try:
            self._ours.send_bytes(data)
            if not self._ours.poll(limit_s):
                return Outcome("hang", limit_s * 1000, 0.0)
            result, peak_mb = self._ours.recv()
        except (EOFError, OSError):
            return Outcome("crash", (time.perf_counter() - start) * 1000, 0.0)
        return Outcome(result, (time.perf_counter() - start) * 1000, peak_mb)

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._ours.close()


def _serve(target: Target, pipe: Connection, limit_mb: int) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # C libraries complain there of every file
    target(b"")  # whatever is imported or allocated once, at the first file
    resource.setrlimit(resource.RLIMIT_AS, (limit_mb << 20, limit_mb << 20))
    base = _peak_mb()
    pipe.send(_STARTED)
    while True:
        data = pipe.recv_bytes()
        pipe.send((_word(target, data), _peak_mb() - base))


def _word(target: Target, data: bytes) -> str:
    try:
        return target(data)
    except BaseException as error:  # noqa: BLE001 - a finding, whatever it is
        return f"exception: {type(error).__name__}: {error}"[:300]


def _peak_mb() -> float:
    peak: Any = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) / 1024
