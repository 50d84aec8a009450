"""`relatent edit`."""

from __future__ import annotations

import typer

from jobs.options import EDIT_FLAGS, RUN_FLAGS, configured
from pipeline.config import JobConfig


@configured("inversions", "prompts", "output", *EDIT_FLAGS, *RUN_FLAGS)
def edit(config: JobConfig) -> int:
    """Edit from the artifacts of an earlier output; never inverts."""
    from jobs.job import run_job  # --help needs none of it

    return run_job("edit", config)


if __name__ == "__main__":
    typer.run(edit)
