"""The two manifests, checked row by row and against each other before anything runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.io import storage
from pipeline.io.formats import DOCUMENTS, TABLES, Line, check_suffix, read_lines
from pipeline.io.image_manifest import ImageManifest, read_images
from pipeline.io.selection import applies, columns_named, edits_for, template
from pipeline.io.validation import InvalidRowError, UniqueIds, check_id, printable_id, valid
from pipeline.records import PromptRow, Refusal
from pipeline.settings import InversionSettings
from pipeline.words import absent

__all__ = [
    "ImageManifest",
    "PromptManifest",
    "applies",
    "check_plan",
    "columns_named",
    "edits_for",
    "read_images",
    "read_prompts",
]

_JSON_CELLS: Final = frozenset({"strength", "edits", "where", "word_weights"})
_REQUIRED: Final = tuple(name for name, field in PromptRow.model_fields.items() if field.is_required())


@dataclass(frozen=True)
class PromptManifest:
    """The prompt rows that are valid, the line each stands on, and those that are not valid."""

    uri: str
    rows: tuple[PromptRow, ...]
    lines: tuple[int, ...]
    refusals: tuple[Refusal, ...]


def read_prompts(uri: str, output: str | None = None) -> PromptManifest:
    """Read a prompt manifest: Parquet, CSV, JSONL or YAML.

    In a cell of text, a list of strengths, `edits`, `word_weights` and a `where` are JSON.

    Args:
        uri: the manifest.
        output: the job's own folder, which may be one that takes ids in capitals or not for the same.

    Raises:
        JobError: nothing is there, or the file cannot be read as what its name says.
    """
    check_suffix(uri, (*TABLES, *DOCUMENTS))
    lines, refused = read_lines(uri, _REQUIRED)
    refusals = list(refused)
    rows: list[PromptRow] = []
    numbers: list[int] = []
    unique = UniqueIds("edit_id", fold_case=output is not None and storage.folds_case(output))
    for line in lines:
        try:
            rows.append(_row(line, uri, unique))
            numbers.append(line.number)
        except InvalidRowError as error:
            refusals.append(Refusal(uri, line.number, str(error), printable_id(line.values, "edit_id")))
    return PromptManifest(uri, tuple(rows), tuple(numbers), tuple(sorted(refusals, key=lambda r: r.line)))


def _row(line: Line, uri: str, unique: UniqueIds) -> PromptRow:
    row = valid(PromptRow, _with_parsed_cells(line.values))
    # One segment: image `a/b` with edit `c` must not meet image `a` with edit `b/c`.
    check_id("edit_id", row.edit_id, folders=False)
    for i, delta in enumerate(row.deltas):
        try:
            template(delta.prompt)
        except ValueError as error:
            raise InvalidRowError(f"{f'edits[{i}].' if row.edits else ''}prompt: {error}") from error
    if len(set(row.strengths)) < len(row.strengths):
        raise InvalidRowError(f"strength: expected each value once; got {list(row.strengths)}")
    _check_where(row.where or {})
    _check_words(row)
    unique.claim(row.edit_id, uri, line.number)
    return row


def _with_parsed_cells(values: Mapping[str, Any]) -> dict[str, Any]:
    cells = {name: _parsed(value) if name in _JSON_CELLS else value for name, value in values.items()}
    return cells | {"edits": _without_nulls(cells["edits"])} if "edits" in cells else cells


def _without_nulls(edits: Any) -> Any:
    """Rows of a Parquet column have all its fields: a null is one that this change does not give."""
    if not isinstance(edits, list):
        return edits
    return [{k: v for k, v in edit.items() if v is not None} if isinstance(edit, dict) else edit for edit in edits]


def _parsed(value: Any) -> Any:
    if not (isinstance(value, str) and value.lstrip().startswith(("[", "{"))):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value  # refused below as the text that it is


def _check_where(where: Mapping[str, Any]) -> None:
    for name, wanted in where.items():
        options = wanted if isinstance(wanted, list) else [wanted]
        if not options or any(isinstance(option, list | dict) for option in options):
            raise InvalidRowError(f"where: expected a value or a list of values for {name!r}")


def _check_words(row: PromptRow) -> None:
    """Refuse weights of words that the prompt lacks; one with columns is checked once these are filled in."""
    unknown = absent(row.word_weights or {}, row.text)
    if unknown and not columns_named(row.text):
        raise InvalidRowError(f"word_weights: expected words of the prompt; got {unknown[0]!r}")


def check_plan(
    images: ImageManifest, prompts: PromptManifest, inversion: InversionSettings | None = None
) -> tuple[Refusal, ...]:
    """Refuse prompt rows that do not fit the images or the job.

    An unknown column, an image that no row has, or a guidance that has no say, or at which the negative prompt has
    none; `inversion` says how all images are inverted, where it is one way for all.
    """
    columns = set(images.table.column_names)
    ids = images.table.column("image_id")
    return tuple(
        Refusal(prompts.uri, number, reason, row.edit_id)
        for number, row in zip(prompts.lines, prompts.rows, strict=True)
        for reason in (*_misfits(row, columns, ids), *_without_say(row, inversion))
    )


def _without_say(row: PromptRow, inversion: InversionSettings | None) -> Iterator[str]:
    fitted_scale = None if inversion is None else inversion.guidance_scale
    scale = fitted_scale if row.guidance_scale is None else row.guidance_scale
    if inversion is not None and not inversion.guides(inversion.num_inference_steps):
        for name in ("negative_prompt", "guidance_scale"):
            if getattr(row, name):
                yield f"{name}: expected a guidance_share above 0; without guided steps it has no say"
    elif scale == 1 and row.negative_prompt:
        yield "negative_prompt: expected a guidance scale other than 1; at 1 it has no say"


def _misfits(row: PromptRow, columns: set[str], ids: pa.ChunkedArray) -> Iterator[str]:
    known = ", ".join(sorted(columns))
    for column in sorted(set[str]().union(*(columns_named(delta.prompt) for delta in row.deltas)) - columns):
        yield f"prompt: expected a column of the images ({known}); got {{{column}}}"
    for column in sorted((row.where or {}).keys() - columns):
        yield f"where: expected a column of the images ({known}); got {column!r}"
    if row.image_id is not None and pc.index(ids, row.image_id).as_py() < 0:
        yield f"image_id: no image row has {row.image_id!r}"
