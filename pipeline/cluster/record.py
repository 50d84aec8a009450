"""What a run writes into `run.json`: at its start what is asked for, at its end what came of it."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from typing import Any, Final

from pipeline.counts import Counts
from pipeline.io.layout import run_record_uri
from pipeline.io.lease import Fence
from pipeline.io.run_record import recorded
from pipeline.planning import Plan

_RECORDED: Final = ("relatent", "ray", "torch", "diffusers", "transformers", "pyarrow", "pillow", "numpy")


def record_start(plan: Plan, fence: Fence) -> None:
    """Record what a run is about to do."""
    planned = {"images": len(plan.images), "edits": plan.edits, "refused": len(plan.refusals)}
    _write(plan, fence, {"state": "running", "planned": planned})


def record_end(plan: Plan, fence: Fence, counts: Counts) -> None:
    """Record what the output holds now, not when: running again changes nothing."""
    came_of_it = {
        "images": counts.images,
        "images_failed": counts.images_failed,
        "edits": counts.edits,
        "edits_failed": counts.edits_failed,
        "refused": len(plan.refusals),
        "failures": counts.codes,
    }
    # A run that had nothing to edit loaded no weights: it repeats what can be known without.
    missing = counts.missing_scores if counts.edited else plan.missing_scores
    said = {"missing_scores": dict(missing)} if missing else {}
    _write(plan, fence, {"state": "finished", "counts": came_of_it, **said})


def _write(plan: Plan, fence: Fence, state: dict[str, Any]) -> None:
    record = {
        "command": plan.command,
        "config": recorded(plan.config),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _RECORDED}},
        "model_fingerprint": plan.fingerprint,
        **state,
    }
    fence.write(run_record_uri(plan.output), (json.dumps(record, indent=2, sort_keys=True) + "\n").encode())
