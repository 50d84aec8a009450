"""`relatent run`."""

from __future__ import annotations

import typer

from jobs.options import EDIT_FLAGS, INVERSION_FLAGS, RUN_FLAGS, configured
from pipeline.config import JobConfig


@configured("images", "prompts", "output", *INVERSION_FLAGS, *EDIT_FLAGS, *RUN_FLAGS)
def run(config: JobConfig) -> int:
    """Invert what has no artifact, edit what has no output."""
    from jobs.job import run_job  # --help needs none of it

    return run_job("run", config)


if __name__ == "__main__":
    typer.run(run)
