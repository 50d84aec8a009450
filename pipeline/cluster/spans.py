"""When the processes of a job on one machine were at work: lines in files, where a folder for them is named.

Metrics say how much; an account of a whole run needs to know when.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

# An actor's imports and model, before its first batch; all other spans are of the stages in `metrics`.
LOAD: Final = "load"
_FOLDER: Final = "RELATENT_SPANS"  # inherited by the workers of a Ray that is started meanwhile


@dataclass(frozen=True, slots=True)
class Span:
    """One piece of work: its stage, the process, and from when to when by the wall clock, in seconds."""

    stage: str
    process: int
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began


def add(stage: str, began: float, ended: float) -> None:
    """Note a piece of work of this process, if anybody asks for it."""
    if folder := os.environ.get(_FOLDER):
        span = Span(stage, os.getpid(), began, ended)
        with (Path(folder) / f"{span.process}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(span)) + "\n")


@contextmanager
def noted(folder: Path) -> Iterator[None]:
    """Have this process, and those that it starts while the context lasts, note their work in a folder."""
    before = os.environ.get(_FOLDER)
    os.environ[_FOLDER] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FOLDER]
        else:
            os.environ[_FOLDER] = before


def read(folder: Path) -> list[Span]:
    """All that was noted, in the order in which it began."""
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_text(encoding="utf-8").splitlines()]
    return sorted((Span(**json.loads(line)) for line in lines), key=lambda span: span.began)
