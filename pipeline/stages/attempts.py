"""Notes of work that has begun: whoever does it again learns how often its worker died over it on this machine."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pipeline.errors import JobError
from pipeline.keys import content_key

# Deaths over the same rows, one after the other, after which it is not worth going on: a batch dies once in its worker,
# once apart, and twice over each row that is to blame.
MOST_DEATHS: Final = 20


@contextmanager
def attempt(run: str, stage: str, rows: Sequence[str]) -> Iterator[int]:
    """Note that a stage's work on these rows has begun, and strike the note out when it ends, well or not.

    The note is on the machine's own disk: a machine that goes takes its notes along, and no row is blamed for it.

    Args:
        run: unlike any other run's.
        stage: which works on them.
        rows: what they are called; no other work of the stage's has the same.

    Yields:
        How many workers died over it on this machine so far.

    Raises:
        JobError: too many.
    """
    note = _note(run, stage, rows)
    note.parent.mkdir(mode=0o700, exist_ok=True)
    with note.open("ab") as file:
        deaths = file.tell()
        file.write(b".")
    try:
        if deaths >= MOST_DEATHS:
            which = f"{len(rows)} rows, beginning with {rows[0]:.100}"
            raise JobError(
                f"{stage}: {deaths} workers died, one after the other, over the same {which}; see their logs"
            )
        yield deaths
    finally:
        note.unlink(missing_ok=True)


def deaths_over(run: str, stage: str, rows: Sequence[str]) -> int:
    """How many workers died over this work on this machine so far."""
    note = _note(run, stage, rows)
    return note.stat().st_size if note.exists() else 0


def _note(run: str, stage: str, rows: Sequence[str]) -> Path:
    folder = Path(tempfile.gettempdir()) / f"relatent-attempts-{os.getuid()}"
    return folder / content_key({"run": run, "stage": stage, "rows": list(rows)})
