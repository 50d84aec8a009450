"""Exit codes: 0 all done, 1 some rows failed, 2 the job could not start or go on, 130 interrupted or out of budget."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable
from typing import Any

import typer

from pipeline.errors import RelatentError, redacted
from pipeline.events import without_secrets

DONE, SOME_FAILED, NOT_STARTED, INTERRUPTED = 0, 1, 2, 130


class ToldError(Exception):
    """What ended a command, with this exit code, was told already."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def exits(run: Callable[[], int]) -> None:
    """Run a command and leave with its exit code; what stops a job is one line on standard error.

    SIGTERM interrupts like Ctrl-C: so `ray job stop`, and whoever takes a pod or a machine away, asks a command to end.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = run()
    except ToldError as told:
        code = told.code
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - of a bug Python's own code says that some rows failed
        typer.echo(_said(error), err=True)
        code = code_of(error)
    raise typer.Exit(code)


def _interrupt(*_: Any) -> None:
    # Once is enough: another must not cut short what is let go of now. Whoever insists sends SIGKILL.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def code_of(error: BaseException) -> int:
    """The exit code of a command that this ended."""
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else NOT_STARTED


def _said(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted: what is committed stays; the same command does the rest"
    if isinstance(error, RelatentError):
        return f"error: {error}"
    return without_secrets(redacted("".join(traceback.format_exception(error)).rstrip()))
