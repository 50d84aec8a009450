"""An editor that some pictures end or hang; light, since several processes import it."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from tests.stages.stand_in import StandInEditor

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
