"""`relatent plan`."""

from __future__ import annotations

import typer
from rich.console import Console

from jobs.exits import DONE
from jobs.job import started
from jobs.options import EDIT_FLAGS, INVERSION_FLAGS, RUN_FLAGS, configured
from jobs.report import plan_lines
from pipeline.config import JobConfig
from pipeline.io.outcomes import summary
from pipeline.planning import remainder


@configured("images", "prompts", "output", *INVERSION_FLAGS, *EDIT_FLAGS, *RUN_FLAGS)
def plan(config: JobConfig) -> int:
    """Say what `run` would do: counts, refused rows, cost, time. Runs nothing."""
    planned = started("run", config)
    for line in plan_lines(planned, summary(planned.output), *remainder(planned)):
        Console().print(line, markup=False, highlight=False, soft_wrap=True)
    return DONE


if __name__ == "__main__":
    typer.run(plan)
