"""Exit codes: 0 all done, 1 some rows failed, 2 the job could not start or go on, 130 interrupted or out of budget."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import typer

from pipeline.errors import RelatentError

DONE, SOME_FAILED, NOT_STARTED, INTERRUPTED = 0, 1, 2, 130


def exits(run: Callable[[], int]) -> None:
    """Run a command and leave with its exit code; what stops a job is one line on standard error."""
    try:
        code = run()
    except RelatentError as error:
        typer.echo(f"error: {error}", err=True)
        code = NOT_STARTED
    except Exception:  # noqa: BLE001 - a bug: Python's own exit code would say that some rows failed
        traceback.print_exc()
        code = NOT_STARTED
    except KeyboardInterrupt:
        typer.echo("interrupted: what is committed stays; the same command does the rest", err=True)
        code = INTERRUPTED
    raise typer.Exit(code)
