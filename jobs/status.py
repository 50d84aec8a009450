"""`relatent status`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from jobs.exits import DONE, exits
from pipeline.errors import JobError


def status(output: Annotated[str, typer.Argument(help="a job's output: a directory or s3://bucket/prefix")]) -> None:
    """Say how far an output is, how fast it went, and what failed."""
    exits(lambda: _status(output))


def _status(output: str) -> int:
    from jobs.report import status_lines  # --help needs none of it
    from pipeline.io.lease import writer
    from pipeline.io.outcomes import summary
    from pipeline.io.run_record import read_record

    there = summary(output)
    record = read_record(output)
    if record is None and not (there.inversions or there.edits or there.failures):
        raise JobError(f"status: expected a job's output; got nothing at {output}")
    for line in status_lines(output, there, record, writer(output)):
        Console().print(line, markup=False, highlight=False, soft_wrap=True)
    return DONE


if __name__ == "__main__":
    typer.run(status)
