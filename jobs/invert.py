"""`relatent invert`."""

from __future__ import annotations

import typer

from jobs.options import INVERSION_FLAGS, RUN_FLAGS, configured
from pipeline.config import JobConfig


@configured("images", "output", *INVERSION_FLAGS, *RUN_FLAGS)
def invert(config: JobConfig) -> int:
    """Make artifacts only: invert what has none."""
    from jobs.job import run_job  # --help needs none of it

    return run_job("invert", config)


if __name__ == "__main__":
    typer.run(invert)
