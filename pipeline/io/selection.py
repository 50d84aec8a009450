"""Which edits an image gets: the prompt rows that apply to it, their strengths, and `{column}` filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from string import Formatter
from typing import Any, Final

from pipeline.errors import RowError
from pipeline.records import Deltas, Edit, PromptRow, joined
from pipeline.words import absent

_PLAIN: Final = re.compile(r"[^\W\d][\w -]*")


@lru_cache(maxsize=4096)
def template(prompt: str) -> tuple[tuple[str, str | None], ...]:
    """Split a prompt into pairs of literal text and the column that follows it, if one does.

    Raises:
        ValueError: unbalanced braces, or anything in them but a plain column name; attributes, indexes,
            conversions and format specifications are not read.
    """
    parts = []
    for literal, column, specification, conversion in Formatter().parse(prompt):
        if column is not None and (specification or conversion or not _PLAIN.fullmatch(column)):
            raise ValueError(f"expected a plain column name in braces, or doubled braces; got {{{column}}}")
        parts.append((literal, column))
    return tuple(parts)


def columns_named(prompt: str) -> set[str]:
    """The columns that a prompt's braces name."""
    return {column for _, column in template(prompt) if column is not None}


def edits_for(columns: Mapping[str, Any], prompts: Sequence[PromptRow]) -> list[Edit]:
    """All edits that the prompt rows ask of the image with these columns, in their order, one per strength.

    Raises:
        RowError: row_refused: a prompt names a column that is empty in this row, or once it is filled in lacks a
            word that is weighted. To keep the other prompts' edits, ask for one prompt row at a time.
    """
    return [
        Edit(
            edit_id=prompt.edit_id,
            prompt=text,
            strength=strength + 0.0,  # −0.0 and 0.0 are one strength
            negative_prompt=prompt.negative_prompt or "",
            guidance_scale=prompt.guidance_scale,
            hold_structure=prompt.hold_structure,
            hold_self_attention=prompt.hold_self_attention,
            hold_cross_attention=prompt.hold_cross_attention,
            word_weights=prompt.word_weights,
            seed=prompt.seed,
            deltas=deltas,
            variation=prompt.variation,
            settings=prompt.settings,
        )
        for prompt in prompts
        if applies(prompt, columns)
        for text, deltas in [filled_in(prompt, columns)]
        for strength in prompt.strengths
    ]


def applies(prompt: PromptRow, columns: Mapping[str, Any]) -> bool:
    """Whether a prompt row asks for edits of the image with these columns."""
    if prompt.image_id is not None and prompt.image_id != columns["image_id"]:
        return False
    if not prompt.where:
        return True
    return all(_matches(columns.get(name), wanted) for name, wanted in prompt.where.items())


def _matches(value: Any, wanted: Any) -> bool:
    # Columns of a CSV are text, and YAML reads `true` and `10` as values: equal text is a match.
    options = wanted if isinstance(wanted, list | tuple) else [wanted]
    return any(value == option or _text(value) == _text(option) for option in options)


def _text(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None else str(value)


def filled_in(prompt: PromptRow, columns: Mapping[str, Any]) -> tuple[str, Deltas]:
    """A prompt row's text with an image's columns filled in; and its changes, where it asks for them as such.

    Raises:
        RowError: row_refused: a column that it names is empty.
    """
    if prompt.prompt is not None:
        return _filled(prompt, prompt.prompt, columns), ()
    deltas = tuple((_filled(prompt, delta.prompt, columns), delta.strength) for delta in prompt.deltas)
    return joined(deltas), deltas


def _filled(prompt: PromptRow, asked: str, columns: Mapping[str, Any]) -> str:
    text = "".join([literal + _word(prompt, columns, column) for literal, column in template(asked)])
    if not text.strip():
        raise RowError("row_refused", f"prompt {prompt.edit_id!r}: empty once its columns are filled in")
    if prompt.word_weights and (unknown := absent(prompt.word_weights, text)):
        raise RowError(
            "row_refused", f"prompt {prompt.edit_id!r}: word_weights: expected words of {text!r}; got {unknown[0]!r}"
        )
    return text


def _word(prompt: PromptRow, columns: Mapping[str, Any], column: str | None) -> str:
    if column is None:
        return ""
    word = _text(columns.get(column))
    if word is None:
        raise RowError("row_refused", f"prompt {prompt.edit_id!r}: column {column!r} is empty in this image's row")
    return word
