"""Victims behind their guard, as an engine has its editor."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.settings import InversionSettings
from pipeline.stages.guards import GuardedEditor, InChild
from pipeline.stages.isolation import each
from tests.stages.victims import Victim


def done(guard: InChild, prompts: Sequence[str]) -> list[Any]:
    """What becomes of each prompt, as in the engine."""
    editor = GuardedEditor(guard)
    return each(lambda part: editor.invert_rows([0] * len(part), part, InversionSettings()), prompts)


class Batch:
    """A worker, which has a victim in another process."""

    def __init__(self, log: Path) -> None:
        self._guard = InChild(partial(Victim, log), str(log), None)

    def done(self, prompts: Sequence[str]) -> list[Any]:
        """What becomes of each."""
        return done(self._guard, prompts)
