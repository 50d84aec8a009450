"""`relatent plan`."""

from __future__ import annotations

import typer
from rich.console import Console

from jobs.exits import DONE
from jobs.options import EDIT_FLAGS, INVERSION_FLAGS, RUN_FLAGS, configured
from pipeline.config import JobConfig


@configured("images", "prompts", "output", *INVERSION_FLAGS, *EDIT_FLAGS, *RUN_FLAGS, "gpu-hour-price")
def plan(config: JobConfig) -> int:
    """Say what `run` would do: counts, refused rows, bytes, time, cost. Runs nothing."""
    from jobs.job import started  # --help needs none of it
    from jobs.report import plan_lines
    from pipeline.estimate import estimated
    from pipeline.io.outcomes import summary
    from pipeline.planning import remainder

    planned = started("run", config)
    there = summary(planned.output)
    for line in plan_lines(planned, there, estimated(planned, there, *remainder(planned))):
        Console().print(line, markup=False, highlight=False, soft_wrap=True)
    return DONE


if __name__ == "__main__":
    typer.run(plan)
