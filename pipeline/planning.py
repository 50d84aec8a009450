"""What a job would do: its manifests read and checked, its edits counted. Runs nothing and loads no model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.asking import Asking, count_edits, deciding
from pipeline.config import JobConfig, RowDefaults
from pipeline.counts import Counts
from pipeline.errors import JobError
from pipeline.io import storage
from pipeline.io.manifest import (
    ImageManifest,
    PromptManifest,
    check_plan,
    columns_named,
    read_images,
    read_prompts,
)
from pipeline.io.outcomes import committed_slots
from pipeline.io.reuse import checked_again, inverted_images
from pipeline.io.run_record import Command
from pipeline.io.sampling import chosen_rows
from pipeline.io.uris import canonical
from pipeline.models.families import FAMILIES, Family, lacking, pipeline_class
from pipeline.models.loading import model_fingerprint
from pipeline.models.weights import missing_weights
from pipeline.records import PromptRow, Refusal
from pipeline.words import absent

_NEEDED: Final[Mapping[Command, tuple[str, ...]]] = {
    "run": ("images", "prompts", "output"),
    "invert": ("images", "output"),
    "edit": ("inversions", "prompts", "output"),
}


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
        edits=count_edits(chosen, asked),
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
