"""One run of a job from plan to `run.json`."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Final

from pipeline.cluster import metrics
from pipeline.cluster.graph import outcomes
from pipeline.cluster.session import connect
from pipeline.errors import CODES
from pipeline.io.artifacts import write_rows
from pipeline.io.layout import run_record_uri
from pipeline.io.lease import Fence, held
from pipeline.io.outcomes import committed_artifact_rows, committed_edits, committed_inversions, current_failures
from pipeline.io.sources import remembered
from pipeline.io.storage import write_bytes
from pipeline.keys import sha256_hex
from pipeline.planning import Asking, Counts, Plan, left
from pipeline.records import Refusal
from pipeline.stages.fetch import Committed, Fetch
from pipeline.stages.history import History
from pipeline.stages.publish import Identity, Publish

_RECORDED: Final = ("relatent", "ray", "torch", "diffusers", "transformers", "pyarrow", "pillow", "numpy")


def execute(plan: Plan, on_progress: Callable[[Counts], None]) -> Counts:
    """Do what is missing, and record it, as the only run that writes there; less than that where a budget ends it.

    Args:
        plan: what is asked for.
        on_progress: called with the counts so far, whenever something was committed.

    Raises:
        JobError: another run is writing there, the model cannot be loaded, or there is no such cluster.
        StorageError: the output cannot be read or written.
    """
    with held(plan.output) as fence:
        history = History(current_failures(plan.output))
        counts = _record_refusals(plan, history, fence)
        if len(plan.images):
            counts = _run(plan, history, fence, counts, on_progress)
        rest = left(plan, counts)
        if rest and plan.config.budget_gpu_hours is not None and min(rest) >= 0:
            return counts  # like an interrupted run, one that its budget ended has no record
        assert counts.images == len(plan.images), f"images: planned {len(plan.images)}, accounted for {counts.images}"
        assert counts.edits == plan.edits, f"edits: planned {plan.edits}, accounted for {counts.edits}"
        fence.check()
        write_bytes(run_record_uri(plan.output), _record(plan, counts))
    return counts


def _run(plan: Plan, history: History, fence: Fence, counts: Counts, on_progress: Callable[[Counts], None]) -> Counts:
    resources = connect(plan.config)
    # The precision enters the keys, so it is settled before any key is made.
    config = plan.config.model_copy(update={"dtype": plan.config.dtype or resources.dtype})
    plan = dataclasses.replace(plan, config=config)
    committed = Committed(
        committed_inversions(plan.artifacts),
        committed_artifact_rows(plan.artifacts),
        committed_edits(plan.output),
        history,
        remembered(plan.output),
    )
    fetch = Fetch(config, Asking(plan.prompts), plan.fingerprint, committed)
    identity = Identity(plan.fingerprint, version("relatent"))
    publish = Publish(config, identity, history, fence)
    metrics.count(counts)
    for outcome in outcomes(plan, fetch, publish, resources):
        metrics.count(outcome)
        counts += outcome
        on_progress(counts)
    return counts


def _record_refusals(plan: Plan, history: History, fence: Fence) -> Counts:
    """Commit manifest rows that the job runs without as failures, unless they are recorded already."""
    rows = [_refused(plan, refusal) for refusal in plan.refusals]
    new = [row for row in rows if not history.standing(row["input_sha256"], row["image_id"], row["edit_id"])]
    fence.check()
    write_rows(plan.output, "failures", [row | {"fence": fence.token} for row in new])
    return Counts(codes={"row_refused": len(rows)} if rows else {})


def _refused(plan: Plan, refusal: Refusal) -> dict[str, Any]:
    of_prompts = refusal.file == plan.config.prompts
    row_id = refusal.row_id or f"line {refusal.line}"
    return {
        "image_id": "" if of_prompts else row_id,
        "edit_id": row_id if of_prompts else None,
        "strength": None,
        "stage": CODES["row_refused"].stage,
        "code": "row_refused",
        "message": str(refusal),
        "retryable": CODES["row_refused"].retryable,
        "attempts": 1,
        "input_sha256": sha256_hex(str(refusal).encode()),
        "created_at": datetime.now(UTC),
    }


def _record(plan: Plan, counts: Counts) -> bytes:
    """The text of run.json. It says what the output holds, not when: running again changes nothing."""
    record = {
        "command": plan.command,
        "config": plan.config.model_dump(mode="json"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _RECORDED}},
        "model_fingerprint": plan.fingerprint,
        "counts": {
            "images": counts.images,
            "images_failed": counts.images_failed,
            "edits": counts.edits,
            "edits_failed": counts.edits_failed,
            "refused": len(plan.refusals),
            "failures": counts.codes,
        },
    }
    return (json.dumps(record, indent=2, sort_keys=True) + "\n").encode()
