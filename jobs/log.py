"""The log of a run as JSON lines on standard error, where it is asked for."""

from __future__ import annotations

import logging
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from pipeline.config import JobConfig
from pipeline.counts import Counts
from pipeline.events import LOG, JsonLines, tell
from pipeline.planning import Plan
from pipeline.records import Refusal


@contextmanager
def json_lines(config: JobConfig) -> Iterator[None]:
    """Write what is told to standard error for as long as the context lasts, if the job says so."""
    if not config.log_json:
        yield
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(uuid.uuid4().hex[:12], redact_prompts=config.redact_prompts))
    level = LOG.level
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(level)


def tell_refusals(refusals: Sequence[Refusal]) -> None:
    """Tell of each manifest row that is refused."""
    for refusal in refusals:
        fields = {"file": refusal.file, "line": refusal.line, "row_id": refusal.row_id, "reason": refusal.reason}
        tell("refused", logging.WARNING, **fields)


def tell_started(plan: Plan) -> None:
    """Tell what is asked for."""
    tell(
        "started",
        command=plan.command,
        output=plan.output,
        model_fingerprint=plan.fingerprint,
        images=len(plan.images),
        edits=plan.edits,
    )


def tell_counts(event: str, counts: Counts) -> None:
    """Tell how far a run is, or what it came to."""
    tell(event, **asdict(counts))
