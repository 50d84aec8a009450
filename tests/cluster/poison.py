"""What ends or hangs the processes of a job, for workers to import."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from pipeline.cluster.graph import _EngineActor
from pipeline.stages import engine
from tests.stages.conftest import StandInEditor

SEGFAULT, HANG = 1, 2


class DeadlyEditor(StandInEditor):
    """A picture's first red value says whether it ends its process, or takes for ever."""

    def _check(self, what: object) -> None:
        if what == SEGFAULT:
            os.kill(os.getpid(), signal.SIGSEGV)
        if what == HANG:
            time.sleep(3600)


def deadly_editor(*words: Any) -> DeadlyEditor:
    """In place of a real one."""
    return DeadlyEditor()


class DeadlyActor(_EngineActor):
    """An engine actor with such an editor, in its own process and in those that it starts."""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        engine._editor = deadly_editor
