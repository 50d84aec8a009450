"""`relatent prune`."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

import typer
from rich.console import Console

from jobs.exits import DONE, exits


def prune(
    output: Annotated[str, typer.Argument(help="a job's output: a directory or s3://bucket/prefix")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would go")] = False,  # noqa: FBT002 - a flag
) -> None:
    """Remove what the manifests of an output's last job no longer name, and what killed runs left behind."""
    exits(lambda: _prune(output, dry_run=dry_run))


def _prune(output: str, *, dry_run: bool) -> int:
    from jobs.job import record_of, started  # --help needs none of it
    from jobs.report import prune_lines
    from pipeline.io.lease import held
    from pipeline.io.listing import temporary_files
    from pipeline.io.uris import canonical
    from pipeline.upkeep.pruning import prune as remove
    from pipeline.upkeep.pruning import to_prune
    from pipeline.upkeep.wanted import Wanted

    output = canonical(output)
    record_of("prune", output).job(output)
    temporary = temporary_files(output)
    with nullcontext() if dry_run else held(output) as fence:
        record = record_of("prune", output)
        # A trial over some of the images says nothing about the others.
        config = record.job(output).model_copy(update={"limit": None, "sample": None})
        wanted = Wanted.by(started(record.command, config))
        going = list(to_prune(wanted, temporary))
        if fence is not None:
            remove(fence, wanted, temporary)
    for line in prune_lines(going, dry_run=dry_run):
        Console().print(line, markup=False, highlight=False, soft_wrap=True)
    return DONE


if __name__ == "__main__":
    typer.run(prune)
