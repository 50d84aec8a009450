"""What the commands say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pipeline.io.outcomes import Summary
from pipeline.planning import Counts, Plan, escalation_work_of, work_of
from pipeline.records import Refusal

_SHOWN_REFUSALS: Final = 20


def refusal_lines(refusals: Sequence[Refusal]) -> Iterator[str]:
    """One line per refused manifest row, of the first few."""
    yield from (f"refused: {refusal}" for refusal in refusals[:_SHOWN_REFUSALS])
    if len(refusals) > _SHOWN_REFUSALS:
        yield f"refused: … and {len(refusals) - _SHOWN_REFUSALS} more"


def empty_lines(plan: Plan) -> Iterator[str]:
    """One line per manifest that leaves nothing to do."""
    if not len(plan.images):
        yield f"empty: 0 image rows in {plan.config.images}"
    if plan.command != "invert" and not plan.prompts:
        yield f"empty: 0 prompt rows in {plan.config.prompts}"


def closing_lines(plan: Plan, counts: Counts) -> Iterator[str]:
    """What a run did, what was there already, what failed, and where to look."""
    yield f"{counts.inverted} inverted, {counts.edited} edited, {counts.failures} failed"
    if counts.escalated:
        yield f"escalated: {counts.escalated} of {counts.inverted} images fell short under the job's own settings"
    if counts.reused or counts.kept:
        yield f"already there: {counts.reused} of {counts.images} inversions, {counts.kept} of {counts.edits} edits"
    for code, count in sorted(counts.codes.items()):
        yield f"failed: {code} × {count}"
    yield f"output: {plan.output}"


def plan_lines(plan: Plan, there: Summary, images: int, edits: int) -> Iterator[str]:
    """What is asked for, what the output holds of anything, and what the rest would cost at most.

    Args:
        plan: what is asked for.
        there: what the output holds.
        images: how many are not inverted.
        edits: how many are not made.
    """
    inversion, edit = work_of(plan)
    work = images * inversion + edits * edit
    yield f"asked: {len(plan.images)} images, {plan.edits} edits of them; {len(plan.refusals)} manifest rows refused"
    yield f"output: {plan.output} holds {there.inversions} inversions and {there.edits} edits; none is made twice"
    yield f"to do: {images} to invert, {edits} to edit (more where bytes or settings changed)"
    yield f"cost: at most {work:,} network evaluations ({inversion:,} per inversion, {edit:,} per edit)"
    if more := escalation_work_of(plan):
        margin, so_far = plan.config.qa_margin, f"{there.escalated} of {there.inversions}"
        yield f"escalation: at most {more:,} more for an image that falls short by over {margin:g} dB; so far {so_far}"
    before = there.inversions * inversion + there.edits * edit
    if before and there.seconds:
        took = duration(there.seconds * work / before)
        yield f"time: about {took} on one actor, at the speed of this output so far, if that had these settings"
    else:
        yield "time: not known before something has run; a run over a few images into this output measures it"


def status_lines(output: str, there: Summary, record: Mapping[str, Any] | None) -> Iterator[str]:
    """How far an output is, how fast it went, and what failed."""
    yield f"output: {output}"
    if record is None:
        yield "state: not finished; the same command does the rest"
    else:
        counts = record["counts"]
        yield f"state: {record['command']} finished over {counts['images']} images and {counts['edits']} edits"
    yield f"done: {there.inversions} inversions, {there.edits} edits"
    if there.escalated:
        yield f"escalated: {there.escalated} of {there.inversions} images fell short under the job's own settings"
    if there.seconds:
        each = there.seconds / max(there.inversions + there.edits, 1)
        yield f"speed: {duration(there.seconds)} of model time, {each:.2f} s per result"
    yield f"failed: {sum(there.failures.values())}"
    yield from (f"failed: {code} × {count}" for code, count in sorted(there.failures.items()))


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
