"""What run, invert and edit share: plan, execute, report."""

from __future__ import annotations

from rich.console import Console

from jobs.exits import DONE, INTERRUPTED, SOME_FAILED
from jobs.log import tell_counts, tell_refusals, tell_started
from jobs.progress import progress
from jobs.report import closing_lines, empty_lines, missing_lines, refusal_lines
from pipeline.config import JobConfig
from pipeline.counts import Counts
from pipeline.errors import JobError
from pipeline.events import tell_missing_scores
from pipeline.io.run_record import Command, RunRecord, read_record
from pipeline.io.storage import StorageError, check_writable
from pipeline.planning import Plan, left, read_plan


def run_job(command: Command, config: JobConfig, *, insist: bool = False) -> int:
    """Do what is missing of a job, and return its exit code; `insist` tries again what failed for good, too."""
    plan = started(command, config)
    counts = finish(plan, insist=insist)
    if left(plan, counts):
        return INTERRUPTED  # by its budget
    return SOME_FAILED if counts.failures else DONE


def started(command: Command, config: JobConfig) -> Plan:
    """Read a job's plan, and say which rows are refused and which scores will be missing.

    Raises:
        JobError: the job cannot start; or rows are refused, and `skip_invalid` does not say to go on without.
    """
    plan = read_plan(command, config)
    tell_refusals(plan.refusals)
    tell_missing_scores(plan.missing_scores)
    said = (*refusal_lines(plan.refusals), *empty_lines(plan), *missing_lines(plan.missing_scores))
    lines = () if config.log_json else said
    for line in lines:
        Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)
    if plan.refusals and not config.skip_invalid:
        raise JobError(f"{len(plan.refusals)} manifest rows refused; --skip-invalid runs the job without them")
    return plan


def finish(plan: Plan, *, insist: bool = False) -> Counts:
    """Execute a plan under a progress display, and report.

    Raises:
        JobError: the output cannot be written, which is found out before anything is made.
    """
    try:
        check_writable(plan.output)
    except StorageError as error:
        raise JobError(f"output: cannot be written ({error})") from error
    from pipeline.cluster.execution import execute  # ray takes seconds to import

    tell_started(plan)
    with progress(plan) as on_progress:
        counts = execute(plan, on_progress, insist=insist)
    tell_counts("out of budget" if left(plan, counts) else "finished", counts)
    for line in closing_lines(plan, counts):
        Console().print(line, markup=False, highlight=False, soft_wrap=True)
    return counts


def record_of(command: str, output: str) -> RunRecord:
    """The record of an output's last run, for a command that goes by it.

    Raises:
        JobError: there is none.
    """
    record = read_record(output)
    if record is None:
        raise JobError(f"{command}: expected a job's output, with a run.json; got none at {output}")
    return record
