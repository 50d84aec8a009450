"""The log of a run as JSON lines on standard error, where it is asked for."""

from __future__ import annotations

import logging
import sys
import traceback
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from jobs.exits import ToldError, code_of
from pipeline.config import JobConfig
from pipeline.errors import RelatentError, redacted
from pipeline.events import LOG, JsonLines, tell

if TYPE_CHECKING:
    from pipeline.counts import Counts
    from pipeline.planning import Plan
    from pipeline.records import Refusal


@contextmanager
def json_lines(config: JobConfig) -> Iterator[None]:
    """Write what is told to standard error for as long as the context lasts, if the job says so.

    So is what other libraries log or warn of, and what ends the job.

    Raises:
        ToldError: from what ended it.
    """
    if not config.log_json:
        yield
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(uuid.uuid4().hex[:12], redact_prompts=config.redact_prompts))
    everything, level = logging.getLogger(), LOG.level
    everything.addHandler(handler)
    LOG.setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        _tell_end(error)
        raise ToldError(code_of(error)) from error
    finally:
        logging.captureWarnings(capture=False)
        everything.removeHandler(handler)
        LOG.setLevel(level)


def _tell_end(error: BaseException) -> None:
    if isinstance(error, KeyboardInterrupt):
        tell("interrupted", logging.WARNING)
    elif isinstance(error, RelatentError):
        tell("error", logging.ERROR, type=type(error).__name__, message=str(error))
    else:
        tell("error", logging.ERROR, type=type(error).__name__, message=redacted(str(error)), frames=_frames(error))


def _frames(error: BaseException | None) -> list[str]:
    """Where an error came up, after those that led to it: types and places in the code, nothing of what they say."""
    if error is None:
        return []
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    frames = traceback.extract_tb(error.__traceback__)
    return [
        *_frames(cause),
        *(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames),
        type(error).__name__,
    ]


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
