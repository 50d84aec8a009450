"""One run of a job from plan to `run.json`."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Final

from pipeline.asking import Asking
from pipeline.cluster import metrics
from pipeline.cluster.graph import LoadEngine, deadline_of, load_engine, outcomes
from pipeline.cluster.record import record_end, record_start
from pipeline.cluster.session import Resources, connect
from pipeline.counts import Counts
from pipeline.errors import CODES, JobError
from pipeline.events import LOG, tell_missing_scores
from pipeline.io.artifacts import write_rows
from pipeline.io.lease import Fence, held
from pipeline.io.outcomes import committed_edits, committed_inversions, current_failures, has_inversions
from pipeline.io.run_record import read_record
from pipeline.io.sources import remembered
from pipeline.keys import sha256_hex
from pipeline.models.grid import read_grid
from pipeline.planning import Plan, left, refused_ids
from pipeline.records import Refusal
from pipeline.stages.fetch import Committed, Fetch
from pipeline.stages.history import History
from pipeline.stages.publish import Identity, Publish

# By so much may clocks of a cluster differ, by which actors know that their time is over, and the driver that it was.
_CLOCKS_SECONDS: Final = 5.0


def execute(
    plan: Plan, on_progress: Callable[[Counts], None], *, insist: bool = False, load: LoadEngine = load_engine
) -> Counts:
    """Do what is missing, and record it, as the only run that writes there; less than that where a budget ends it.

    Args:
        plan: what is asked for.
        on_progress: called with the counts so far, whenever something was committed.
        insist: try again what failed for good, too.
        load: makes each actor's engine.

    Raises:
        JobError: another run is writing there, the model cannot be loaded, there is no such cluster, or some rows are
            not accounted for.
        StorageError: the output cannot be read or written.
    """
    with held(plan.output) as fence:
        resources = connect(plan.config, len(plan.images)) if len(plan.images) else None
        plan = _with_precision(plan, resources)
        record_start(plan, fence)
        failures = current_failures(plan.output)
        counts, deadline = _record_refusals(plan, History(failures), fence), math.inf
        if resources is not None:
            history = History(failures, insist=insist)
            fetch = fetch_of(plan, history)
            publish = Publish(plan.config, Identity(plan.fingerprint, version("relatent")), history, fence)
            deadline = deadline_of(plan.config, resources)
            made = outcomes(plan, fetch, publish, resources, deadline, load)
            counts = _added_up(plan, made, counts, on_progress)
        if rest := left(plan, counts):
            # Like an interrupted run's, its record does not say that it is finished.
            if time.time() > deadline - _CLOCKS_SECONDS and min(rest) >= 0:
                return counts
            raise _unaccounted(plan, counts)
        record_end(plan, fence, counts)
    return counts


def _unaccounted(plan: Plan, counts: Counts) -> JobError:
    """Why planned rows and those that came back are not as many.

    Of a batch whose worker died Ray takes as many parts of the second try as it has of the first for these very parts.
    If a row comes out otherwise there, one of its two outcomes is lost, or both are counted.
    """
    images = f"{counts.images} of {len(plan.images)} images"
    edits = f"{counts.edits} of {plan.edits} edits"
    why = "rows came out otherwise when they were tried again after a worker's death"
    return JobError(f"output {plan.output}: {images} and {edits} accounted for: {why}; give the same command again")


def _with_precision(plan: Plan, resources: Resources | None) -> Plan:
    """The plan with its network's precision, which enters the keys, and so is settled before any key is made.

    Where the job names none it is that of the output's last run, if it holds results: on a machine that has another,
    because it has no GPU, or none yet, all would be made anew.
    """
    if plan.config.dtype is not None:
        return plan
    record = read_record(plan.output) if has_inversions(plan.output) else None
    before, here = record and record.config.get("dtype"), resources and resources.dtype
    if before and here and before != here:
        LOG.warning("precision: %s, as in this output's last run; --dtype %s makes all of it anew", before, here)
    return dataclasses.replace(plan, config=plan.config.model_copy(update={"dtype": before or here}))


def _added_up(plan: Plan, made: Iterable[Counts], counts: Counts, on_progress: Callable[[Counts], None]) -> Counts:
    metrics.count(counts)
    told = set(plan.missing_scores)
    for outcome in made:
        metrics.count(outcome)
        tell_missing_scores({name: why for name, why in outcome.missing_scores.items() if name not in told})
        told |= outcome.missing_scores.keys()
        counts += outcome
        on_progress(counts)
    return counts


def fetch_of(plan: Plan, history: History) -> Fetch:
    """The first stage of a plan, which knows what the output holds now.

    Raises:
        JobError: the model does not say at which sizes it works.
        StorageError: the output cannot be read.
    """
    committed = Committed(
        committed_inversions(plan.artifacts),
        committed_edits(plan.output),
        history,
        remembered(plan.output),
    )
    grid = read_grid(plan.config.model, plan.config.max_side)
    return Fetch(plan.config, Asking(plan.prompts), plan.fingerprint, committed, grid.working_size)


def _record_refusals(plan: Plan, history: History, fence: Fence) -> Counts:
    """Commit manifest rows that the job runs without as failures, unless they are recorded already."""
    rows = [_refused(plan, refusal) for refusal in plan.refusals]
    new = [row for row in rows if not history.standing(row["input_sha256"], row["image_id"], row["edit_id"])]
    fence.check()
    write_rows(plan.output, "failures", [row | {"fence": fence.token} for row in new])
    return Counts(codes={"row_refused": len(rows)} if rows else {})


def _refused(plan: Plan, refusal: Refusal) -> dict[str, Any]:
    image_id, edit_id = refused_ids(plan, refusal)
    return {
        "image_id": image_id,
        "edit_id": edit_id,
        "strength": None,
        "stage": CODES["row_refused"].stage,
        "code": "row_refused",
        "message": str(refusal),
        "retryable": CODES["row_refused"].retryable,
        "attempts": 1,
        "input_sha256": sha256_hex(str(refusal).encode()),
        "created_at": datetime.now(UTC),
    }
