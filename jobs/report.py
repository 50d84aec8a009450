"""What the commands say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pipeline.counts import Counts
from pipeline.estimate import Estimate, escalation_work_of, work_of
from pipeline.io.lease import Holder
from pipeline.io.outcomes import Summary
from pipeline.io.run_record import RunRecord
from pipeline.planning import Plan, left
from pipeline.records import Refusal
from pipeline.upkeep.pruning import Going

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


def missing_lines(missing: Mapping[str, str]) -> Iterator[str]:
    """One line per score that weights are named for and that is missing."""
    yield from (f"missing: {reason}" for reason in missing.values())


def closing_lines(plan: Plan, counts: Counts) -> Iterator[str]:
    """What a run did, what was there already, what failed, and where to look."""
    yield f"{counts.inverted} inverted, {counts.edited} edited, {counts.failures} failed"
    if counts.escalated:
        yield f"escalated: {counts.escalated} of {counts.inverted} images fell short under the job's own settings"
    if counts.reused or counts.kept:
        yield f"already there: {counts.reused} of {counts.images} inversions, {counts.kept} of {counts.edits} edits"
    for code, count in sorted(counts.codes.items()):
        yield f"failed: {code} × {count}"
    said = plan.missing_scores
    yield from missing_lines({name: why for name, why in counts.missing_scores.items() if name not in said})
    if images_and_edits := left(plan, counts):
        images, edits = images_and_edits
        rest = f"{images} images and {edits} edits were not reached; the same command goes on"
        yield f"stopped: the budget of {plan.config.budget_gpu_hours:g} GPU-hours is spent; {rest}"
    yield f"output: {plan.output}"


def plan_lines(plan: Plan, there: Summary, rest: Estimate) -> Iterator[str]:
    """What is asked for, what the output holds of anything, and what the rest would cost at most."""
    inversion, edit = work_of(plan)
    work = rest.images * inversion + rest.edits * edit
    yield f"asked: {len(plan.images)} images, {plan.edits} edits of them; {len(plan.refusals)} manifest rows refused"
    yield f"distinct: {rest.distinct_images} image URIs, {rest.distinct_prompts} prompts"
    yield f"output: {plan.output} holds {there.inversions} inversions and {there.edits} edits; none is made twice"
    yield f"to do: {rest.images} to invert, {rest.edits} to edit (more where bytes or settings changed)"
    yield f"cost: at most {work:,} network evaluations ({inversion:,} per inversion, {edit:,} per edit)"
    if more := escalation_work_of(plan):
        margin, so_far = plan.config.qa_margin, f"{there.escalated} of {there.inversions}"
        yield f"escalation: at most {more:,} more for an image that falls short by over {margin:g} dB; so far {so_far}"
    yield f"in: {_reads(rest)}"
    if rest.writes is not None:
        yield f"out: about {size(rest.writes)}, at the size of this output's results so far"
    if rest.seconds is None or rest.gpu_hours is None:
        measure = "" if plan.config.sample else "; --sample 20 with `run` and the same output measures it"
        yield f"time: not known before something has run{measure}"
        return
    actors, unit = plan.config.actors, "GPU-hours" if rest.gpus else "hours of actors without GPU"
    took = duration(rest.seconds / (actors or 1))
    # How many there will be that are not asked for is known once a cluster is asked.
    whose = f"on {actors} actor{'s' * (actors > 1)}" if actors else "of one actor"
    yield f"time: about {took} {whose}, at the speed of this output so far, if that had these settings"
    price = plan.config.gpu_hour_price
    priced = f", {rest.gpu_hours * price:,.2f} at {price:g} each" if price is not None else ""
    yield f"bill: about {rest.gpu_hours:,.3g} {unit} of the model alone{priced}"


def _reads(rest: Estimate) -> str:
    reads = rest.reads
    told = size(reads.total)
    if reads.looked_at < reads.files:
        told = f"about {told}, from {reads.looked_at} of {reads.files} originals at random"
    return told + (f"; {reads.missing} of {reads.looked_at} looked at are not there" if reads.missing else "")


def status_lines(output: str, there: Summary, record: RunRecord | None, writer: Holder | None) -> Iterator[str]:
    """How far an output is, how fast it went, and what failed."""
    yield f"output: {output}"
    yield f"state: {_state(record, writer)}"
    yield f"done: {there.inversions} inversions, {there.edits} edits"
    if there.escalated:
        yield f"escalated: {there.escalated} of {there.inversions} images fell short under the job's own settings"
    if there.seconds:
        each = there.seconds / max(there.inversions + there.edits, 1)
        yield f"speed: {duration(there.seconds)} of model time, {each:.2f} s per result"
    yield f"failed: {sum(there.failures.values())}"
    yield from (f"failed: {code} × {count}" for code, count in sorted(there.failures.items()))


def retry_line(failures: Sequence[Mapping[str, Any]], *, insist: bool) -> str:
    """How many of the failures there are will be tried again; a refused manifest row is read again in any case."""
    for_good = sum(not row["retryable"] for row in failures)
    tried = len(failures) if insist else len(failures) - for_good
    rest = f"; {for_good} failed for good, and --all insists" if for_good and not insist else ""
    return f"retry: {tried} of {len(failures)} failures are tried again{rest}"


def prune_lines(going: Sequence[Going], *, dry_run: bool) -> Iterator[str]:
    """What went, or would, of what there was."""
    go = "would go" if dry_run else "went"
    parts = [one for one in going if one.count]
    yield from (f"{one.what}: {one.count} of {one.of} {go}, about {size(one.bytes)}" for one in parts)
    yield f"in all: about {size(sum(one.bytes for one in parts))} {go}" if parts else f"nothing {go}"


def _state(record: RunRecord | None, writer: Holder | None) -> str:
    if record is None:
        return "not finished; the same command does the rest"
    asked = f"{record.images} images and {record.edits} edits"
    if record.finished:
        return f"{record.command} finished over {asked}"
    if writer is not None:
        return f"{record.command} over {asked} under way ({writer})"
    return f"{record.command} over {asked} not finished; `relatent retry`, or the same command, does the rest"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def size(count: float) -> str:
    """Bytes as a person says them."""
    units = ("B", "kB", "MB", "GB", "TB", "PB")
    power = min(int(math.log10(max(count, 1)) // 3), len(units) - 1)
    return f"{count / 1000**power:.3g} {units[power]}"
