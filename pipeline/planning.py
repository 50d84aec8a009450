"""What a job would do: its manifests read and checked, its edits counted. Runs nothing and loads no model."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.config import JobConfig, RowDefaults
from pipeline.cost import edit_cost, inversion_cost
from pipeline.errors import JobError, RowError
from pipeline.io import storage
from pipeline.io.manifest import (
    ImageManifest,
    PromptManifest,
    applies,
    check_plan,
    columns_named,
    edits_for,
    read_images,
    read_prompts,
)
from pipeline.io.outcomes import committed_slots
from pipeline.io.reuse import checked_again, inverted_images
from pipeline.io.run_record import Command
from pipeline.io.sampling import chosen_rows
from pipeline.io.selection import filled_in
from pipeline.io.uris import canonical
from pipeline.models.families import FAMILIES, Family, lacking, pipeline_class
from pipeline.models.loading import model_fingerprint
from pipeline.models.weights import missing_weights
from pipeline.records import Edit, PromptRow, Refusal
from pipeline.settings import Controls, EditSettings
from pipeline.words import absent

_NEEDED: Final[Mapping[Command, tuple[str, ...]]] = {
    "run": ("images", "prompts", "output"),
    "invert": ("images", "output"),
    "edit": ("inversions", "prompts", "output"),
}
_PART_ROWS: Final = 1 << 14


class Asking:
    """The prompts of a job, found by image: with one prompt per image, nobody looks at all of them each time."""

    def __init__(self, prompts: Iterable[PromptRow] = ()) -> None:
        self._by_image: dict[str | None, list[PromptRow]] = defaultdict(list)
        for prompt in prompts:
            self._by_image[prompt.image_id].append(prompt)

    def of(self, columns: Mapping[str, Any]) -> tuple[list[Edit], list[tuple[Edit, RowError]]]:
        """The edits of the image with these columns, and those whose prompt cannot be filled in."""
        edits: list[Edit] = []
        refused: list[tuple[Edit, RowError]] = []
        for prompt in self._about(columns["image_id"]):
            try:
                edits += edits_for(columns, [prompt])
            except RowError as error:
                refused += [(Edit(prompt.edit_id, prompt.text, strength), error) for strength in prompt.strengths]
        return edits, refused

    def count(self, columns: Mapping[str, Any]) -> int:
        """How many edits the image with these columns gets, those that cannot be filled in among them."""
        return sum(len(prompt.strengths) for prompt in self._applying(columns))

    def there(self, columns: Mapping[str, Any], committed: Mapping[tuple[str, float], str]) -> int:
        """How many of them are committed with the prompt that is asked for now; columns that it names are given, too.

        `committed` has the prompt of each edit id and strength.
        """
        return sum(
            committed.get((prompt.edit_id, strength)) == _text(prompt, columns)
            for prompt in self._applying(columns)
            for strength in prompt.strengths
            if (prompt.edit_id, strength) in committed
        )

    def places(self, columns: Mapping[str, Any]) -> list[tuple[str, float]]:
        """Edit id and strength of each, those that cannot be filled in among them."""
        return [(prompt.edit_id, strength) for prompt in self._applying(columns) for strength in prompt.strengths]

    def _applying(self, columns: Mapping[str, Any]) -> list[PromptRow]:
        return [prompt for prompt in self._about(columns["image_id"]) if applies(prompt, columns)]

    def _about(self, image_id: str) -> list[PromptRow]:
        return [*self._by_image.get(None, ()), *self._by_image.get(image_id, ())]


def _text(prompt: PromptRow, columns: Mapping[str, Any]) -> str | None:
    try:
        return filled_in(prompt, columns)[0]
    except RowError:
        return None


@dataclass(frozen=True, slots=True)
class Counts:
    """How many images and edits came out how; adds up over rows. `escalated` ones are among those inverted.

    `missing_scores` has, by score, the first reason why one that weights are named for is missing.
    """

    inverted: int = 0
    escalated: int = 0
    reused: int = 0
    images_failed: int = 0
    edited: int = 0
    kept: int = 0
    edits_failed: int = 0
    codes: dict[str, int] = field(default_factory=dict)
    missing_scores: dict[str, str] = field(default_factory=dict)

    def __add__(self, other: Counts) -> Counts:
        codes = dict(Counter(self.codes) + Counter(other.codes))
        missing = other.missing_scores | self.missing_scores
        names = [f.name for f in dataclasses.fields(self) if f.name not in {"codes", "missing_scores"}]
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        return Counts(**sums, codes=codes, missing_scores=missing)

    @property
    def images(self) -> int:
        """Images that are accounted for."""
        return self.inverted + self.reused + self.images_failed

    @property
    def edits(self) -> int:
        """Edits that are accounted for."""
        return self.edited + self.kept + self.edits_failed

    @property
    def failures(self) -> int:
        """Rows that failed, each once, however many edits an image's failure costs."""
        return sum(self.codes.values())


@dataclass(frozen=True)
class Plan:
    """A job that could start.

    Attributes:
        images: a table of image_id, image_uri, source_prompt, mask_uri, then the user's columns; for `edit`
            with image_sha256, inversion_key and fitted_scale after the first four.
        refusals: manifest rows that are not valid; `images` and `prompts` are without them.
        edits: how many are asked for, done or not.
        missing_scores: why a score that weights are named for will be missing, as far as is known before they load.
    """

    command: Command
    config: JobConfig
    images: Any
    prompts: tuple[PromptRow, ...]
    refusals: tuple[Refusal, ...]
    fingerprint: str
    edits: int
    missing_scores: Mapping[str, str] = field(default_factory=dict)

    @property
    def output(self) -> str:
        assert self.config.output is not None
        return self.config.output

    @property
    def artifacts(self) -> str:
        """The output whose inversions are used."""
        earlier = self.config.inversions if self.command == "edit" else None
        return earlier or self.output


def read_plan(command: Command, config: JobConfig) -> Plan:
    """Read and check everything that a job needs.

    Raises:
        JobError: an option is missing, the output is a file, a manifest, the artifacts or the model cannot be read,
            no prompt has a word that the job weighs, or the job asks for a control that the model's family lacks.
    """
    for name in _NEEDED[command]:
        if getattr(config, name) is None:
            raise JobError(f"{command}: --{name} is missing")
    config = config.model_copy(update={"output": canonical(str(config.output))})
    if storage.exists(str(config.output)) and not storage.is_folder(str(config.output)):
        raise JobError(f"output {config.output}: expected a folder; got a file")
    family = FAMILIES[pipeline_class(config.model)]
    fingerprint = model_fingerprint(config.model, config.lora, config.preview_vae)
    images = _images(command, config, fingerprint)
    prompts = (
        PromptManifest("", (), (), ())
        if config.prompts is None or command == "invert"
        else _with_defaults(read_prompts(config.prompts, config.output), config.row_defaults)
    )
    _check_words(config, prompts.rows)
    if command != "invert":
        for reason in lacking(family, config.edit, config.edit.mask):
            raise JobError(f"config: edit.{reason}")
    misfits = (
        *check_plan(images, prompts, None if command == "edit" else config.inversion),
        *_beyond(family, prompts),
    )
    unfit = {refusal.row_id for refusal in misfits}
    asked = tuple(row for row in prompts.rows if row.edit_id not in unfit)
    chosen = chosen_rows(images.table, config.limit, config.sample)
    return Plan(
        command=command,
        config=config,
        images=chosen,
        prompts=asked,
        refusals=(*images.refusals, *prompts.refusals, *misfits),
        fingerprint=fingerprint,
        edits=_count(chosen, asked),
        missing_scores={} if command == "invert" else missing_weights(config.scores),
    )


def _with_defaults(prompts: PromptManifest, defaults: RowDefaults) -> PromptManifest:
    return dataclasses.replace(prompts, rows=tuple(map(defaults.of, prompts.rows)))


def _check_words(config: JobConfig, rows: Sequence[PromptRow]) -> None:
    """Refuse a weight of the job's that no prompt has a word for; a prompt's columns may bring any word."""
    for word in config.edit.word_weights if rows else ():
        prompts = [row.prompt for row in rows if row.prompt is not None]
        if all(absent([word], prompt) and not columns_named(prompt) for prompt in prompts):
            raise JobError(f"config: edit.word_weights: expected words of the prompts; no prompt has {word!r}")


def _beyond(family: Family, prompts: PromptManifest) -> tuple[Refusal, ...]:
    """Refuse prompt rows that ask for what the model's family lacks."""
    return tuple(
        Refusal(prompts.uri, number, reason, row.edit_id)
        for number, row in zip(prompts.lines, prompts.rows, strict=True)
        for reason in lacking(family, row, row.mask or "none")
    )


def _images(command: Command, config: JobConfig, fingerprint: str) -> ImageManifest:
    if command == "edit":
        return checked_again(inverted_images(str(config.inversions), fingerprint), str(config.inversions), config.allow)
    return read_images(str(config.images), config.output, config.allow)


def _count(images: Any, prompts: Sequence[PromptRow]) -> int:
    """How many edits are asked for, those that a row's empty columns will refuse among them."""
    everywhere = [row for row in prompts if row.image_id is None and row.where is None]
    elsewhere = [row for row in prompts if row.image_id is not None or row.where is not None]
    count = len(images) * sum(len(row.strengths) for row in everywhere)
    if elsewhere:
        count += sum(map(Asking(elsewhere).count, deciding(images, elsewhere)))
    return count


def deciding(images: Any, prompts: Iterable[PromptRow]) -> Iterator[dict[str, Any]]:
    """The columns of each image that decide which prompts apply to it, and what they say."""
    named = {name for row in prompts for delta in row.deltas for name in columns_named(delta.prompt)}
    columns = {"image_id", *named, *(name for row in prompts for name in row.where or {})}
    for part in images.select(list(columns)).to_batches(max_chunksize=_PART_ROWS):
        yield from part.to_pylist()


def refused_ids(plan: Plan, refusal: Refusal) -> tuple[str, str | None]:
    """Image id and edit id under which a refused manifest row is recorded as a failure: one of them is known."""
    row_id = refusal.row_id or f"line {refusal.line}"
    return ("", row_id) if refusal.file == plan.config.prompts else (row_id, None)


def remainder(plan: Plan) -> tuple[int, int, list[int]]:
    """How many images to invert and edits to make an output lacks, and the numbers of the image rows that lack some.

    Changed bytes or settings are not seen.
    """
    inverted, edited = committed_slots(plan.output)
    asking, lacking = Asking(plan.prompts), list[int]()
    images = edits = 0
    for at, columns in enumerate(deciding(plan.images, plan.prompts)):
        there = edited.get(columns["image_id"], {})
        to_invert = not there and columns["image_id"] not in inverted
        to_edit = asking.count(columns) - (asking.there(columns, there) if there else 0)
        images, edits = images + to_invert, edits + to_edit
        if to_invert or to_edit:
            lacking.append(at)
    return images, edits, lacking


def left(plan: Plan, counts: Counts) -> tuple[int, int] | None:
    """Images and edits that are not accounted for: those that a budget left; None where there are none."""
    rest = len(plan.images) - counts.images, plan.edits - counts.edits
    return rest if any(rest) else None


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
