"""`relatent compact`."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.exits import DONE, exits


def compact(
    output: Annotated[str, typer.Argument(help="a job's output: a directory or s3://bucket/prefix")],
) -> None:
    """Merge the many small Parquet files of an output's tables into few of about 128 MB."""
    exits(lambda: _compact(output))


def _compact(output: str) -> int:
    from jobs.job import record_of  # --help needs none of it
    from pipeline.io.artifacts import SCHEMAS
    from pipeline.io.lease import held
    from pipeline.io.rewriting import merge_files
    from pipeline.io.uris import canonical

    record_of("compact", output)
    with held(canonical(output)) as fence:
        for kind in SCHEMAS:
            before, after = merge_files(fence, kind)
            if before:
                typer.echo(f"{kind}: {before} files before, {after} now")
    return DONE


if __name__ == "__main__":
    typer.run(compact)
