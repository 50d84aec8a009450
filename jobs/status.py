"""`relatent status`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console

from jobs.exits import DONE, exits
from pipeline.errors import JobError


def status(output: Annotated[str, typer.Argument(help="a job's output: a directory or s3://bucket/prefix")]) -> None:
    """Say how far an output is, how fast it went, and what failed."""
    exits(lambda: _status(output))


def _status(output: str) -> int:
    from jobs.report import status_lines  # --help needs none of it
    from pipeline.io.outcomes import summary

    there = summary(output)
    record = _record(output)
    if record is None and not (there.inversions or there.edits or there.failures):
        raise JobError(f"status: expected a job's output; got nothing at {output}")
    for line in status_lines(output, there, record):
        Console().print(line, markup=False, highlight=False, soft_wrap=True)
    return DONE


def _record(output: str) -> dict[str, Any] | None:
    """The output's run.json; None where no run has finished."""
    from pipeline.io.layout import run_record_uri
    from pipeline.io.storage import StorageError, read_bytes

    try:
        record: dict[str, Any] = json.loads(read_bytes(run_record_uri(output)))
    except StorageError as error:
        if error.missing:
            return None
        raise
    return record


if __name__ == "__main__":
    typer.run(status)
