"""What a job would read, write, take and cost: known before anything is spent, as far as an output has measured it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from pipeline.cost import edit_cost, inversion_cost, restoring_cost
from pipeline.errors import RowError
from pipeline.io.outcomes import Summary
from pipeline.io.selection import applies, columns_named, filled_in
from pipeline.io.sizes import Bytes, bytes_of, bytes_per_result
from pipeline.io.sources import remembered_uris
from pipeline.planning import Plan
from pipeline.records import Edit, PromptRow
from pipeline.settings import Controls, EditSettings

_SECONDS_PER_HOUR: Final = 3600


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is left of a job, in the units that are paid for.

    Attributes:
        images, edits: how many are to be inverted and made.
        distinct_images: image URIs, each once.
        distinct_prompts: target prompts with columns filled in, each once.
        reads: the originals of images that lack something, and of those that the output remembers nothing of.
        writes: bytes; None before something has been measured.
        seconds: of the model, on one actor; None before something has been measured.
        gpus: that one actor holds; 0 without.
    """

    images: int
    edits: int
    distinct_images: int
    distinct_prompts: int
    reads: Bytes
    writes: int | None
    seconds: float | None
    gpus: float

    @property
    def gpu_hours(self) -> float | None:
        """Hours of GPUs, or of actors where these have none."""
        return None if self.seconds is None else self.seconds * (self.gpus or 1) / _SECONDS_PER_HOUR


def estimated(plan: Plan, there: Summary, images: int, edits: int, lacking: Sequence[int]) -> Estimate:
    """Estimate what is left of a plan: so many images to invert and edits to make, and whose image rows they are.

    Raises:
        StorageError: the storage does not answer.
    """
    uris = plan.images["image_uri"].to_pylist()
    known = remembered_uris(plan.output)
    read = {uris[at] for at in lacking}.union(uri for uri in uris if uri not in known)
    per_inversion, per_picture = bytes_per_result(plan.output, there.inversions)
    gpus = plan.config.num_gpus
    return Estimate(
        images=images,
        edits=edits,
        distinct_images=len(set(uris)),
        distinct_prompts=len(distinct_prompts(plan)),
        reads=bytes_of(sorted(read)),
        writes=_total((images, per_inversion), (edits, per_picture)),
        seconds=_seconds(plan, there, images, edits, restored=len(lacking) - images),
        # A cluster is not asked before there is something to run on it: one with GPUs gives each actor one.
        gpus=1.0 if gpus is None else gpus,
    )


def distinct_prompts(plan: Plan) -> set[str]:
    """The target prompts of a plan, columns filled in; those that cannot be filled in are left out."""
    rows_of = cache(lambda *names: _distinct_rows(plan.images, names))
    return {text for row in plan.prompts for columns in rows_of(*_looked_at(row)) for text in _text(row, columns)}


def _looked_at(row: PromptRow) -> list[str]:
    """The columns that decide whether a prompt row applies, and what it says."""
    named = {column for delta in row.deltas for column in columns_named(delta.prompt)}
    return sorted({*named, *(row.where or {}), *(["image_id"] if row.image_id is not None else [])})


def _distinct_rows(images: Any, names: Sequence[str]) -> list[dict[str, Any]]:
    """The different values that some columns take together; one empty row where there are images and no columns."""
    rows = images.select(list(names)).to_pylist() if names else [{} for _ in range(min(len(images), 1))]
    return list({repr(row): row for row in rows}.values())


def _text(row: PromptRow, columns: Mapping[str, Any]) -> list[str]:
    try:
        return [filled_in(row, columns)[0]] if applies(row, columns) else []
    except RowError:
        return []


def _seconds(plan: Plan, there: Summary, images: int, edits: int, restored: int) -> float | None:
    """How long the model takes, at this output's own speed; what was not timed there is timed by what it costs.

    Of `restored` images the artifacts are there, and edits lack.
    """
    inversion, edit = work_of(plan)
    made = there.inversions * inversion + there.edits * edit
    if not (made and there.seconds):
        return None
    per_evaluation = there.seconds / made
    each = (
        there.inversion_seconds / there.inversions if there.inversions else per_evaluation * inversion,
        there.edit_seconds / there.edits if there.edits else per_evaluation * edit,
    )
    restoring = restored * restoring_cost(plan.config.inversion) * per_evaluation
    return images * each[0] + edits * each[1] + restoring


def _total(*parts: tuple[int, float | None]) -> int | None:
    """Sum of counts times sizes; None where a size that counts is not known."""
    if any(count and size is None for count, size in parts):
        return None
    return round(sum(count * (size or 0) for count, size in parts))


def escalation_work_of(plan: Plan) -> int:
    """Network evaluations, at most, that an image takes beyond `work_of` where its reconstruction stays short."""
    return sum(map(inversion_cost, plan.config.escalations.values()))


def work_of(plan: Plan) -> tuple[int, int]:
    """Network evaluations, at most, of one inversion and of one edit; a gradient step counts as three."""
    inversion, edit = plan.config.inversion, plan.config.edit
    held = max((_held(edit.controls(_as_edit(row))) for row in plan.prompts), default=_held(edit))
    scales = {inversion.guidance_scale if row.guidance_scale is None else row.guidance_scale for row in plan.prompts}
    guided = bool((scales or {inversion.guidance_scale}) - {1})
    return inversion_cost(inversion), edit_cost(inversion, edit, held, guided=guided)


def _as_edit(row: PromptRow) -> Edit:
    """What a prompt row asks for, with its columns not filled in."""
    return Edit(
        row.edit_id,
        row.text,
        row.strengths[0],
        hold_structure=row.hold_structure,
        hold_self_attention=row.hold_self_attention,
        hold_cross_attention=row.hold_cross_attention,
        deltas=tuple((delta.prompt, delta.strength) for delta in row.edits or ()),
    )


def _held(controls: Controls | EditSettings) -> float:
    return max(controls.hold_structure, controls.hold_self_attention, controls.hold_cross_attention)
