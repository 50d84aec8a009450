"""`relatent retry`."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.exits import exits


def retry(
    output: Annotated[str, typer.Argument(help="a job's output: a directory or s3://bucket/prefix")],
    insist: Annotated[bool, typer.Option("--all", help="also what failed for good")] = False,  # noqa: FBT002 - a flag
) -> None:
    """Give an output's last command again: what failed and may pass is tried once more, what is missing is done."""
    exits(lambda: _retry(output, insist=insist))


def _retry(output: str, *, insist: bool) -> int:
    from jobs.job import record_of, run_job  # --help needs none of it
    from jobs.log import json_lines
    from jobs.report import retry_line
    from pipeline.io.outcomes import current_failures

    record = record_of("retry", output)
    config = record.job(output)
    with json_lines(config):
        if not config.log_json:
            typer.echo(retry_line(current_failures(output), insist=insist), err=True)
        return run_job(record.command, config, insist=insist)


if __name__ == "__main__":
    typer.run(retry)
