"""Whether one manifest row is valid, and if not, why, in one line."""

from __future__ import annotations

import re
import reprlib
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.errors import RelatentError
from pipeline.records import MAX_STRENGTH, MAX_WEIGHT, MIN_STRENGTH, MIN_WEIGHT

_Row = TypeVar("_Row", bound=BaseModel)

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_LONGEST_NAME: Final = 255  # bytes of one name in a file system
_LONGEST_ID: Final = 512  # bytes; S3 has 1024 for the whole key
# Text that is shown in another order than it has, and characters that look like the slash between folders.
_MISLEADING: Final = re.compile("[\u202a-\u202e\u2066-\u2069\u2044\u2215\u29f8\uff0f\uff3c]")
# Names of devices on Windows, with any suffix.
_DEVICE: Final = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


class InvalidRowError(RelatentError):
    """A row is refused; the text says why."""


def valid(model: type[_Row], values: Mapping[str, Any]) -> _Row:
    """Build a row from its values; a null is a value that is not given, but its column is there.

    Raises:
        InvalidRowError: the model refuses it.
    """
    strict = model.model_config.get("extra") == "forbid"
    unknown = values.keys() - model.model_fields.keys() if strict else frozenset[str]()
    try:
        return model.model_validate({n: value for n, value in values.items() if value is not None or n in unknown})
    except ValidationError as error:
        raise InvalidRowError(_reason(error)) from error


def _reason(error: ValidationError) -> str:
    """One clause per column, though a union of types reports several errors."""
    clauses: dict[str, str] = {}
    for detail in error.errors(include_url=False):
        message = detail["msg"].removeprefix("Value error, ")
        if not detail["loc"]:  # of the row as a whole, which says itself which columns
            return message
        column = _column(detail["loc"])
        clauses.setdefault(column, f"{column}: {_clause(column, detail['type'], message, detail['input'])}")
    return "; ".join(clauses.values())


def _column(place: tuple[int | str, ...]) -> str:
    """`edits[0].prompt`; of all else the column alone, since a union's place names its members, too."""
    column, *inside = place
    if column != "edits" or not inside:
        return str(column)
    return f"edits[{inside[0]}]" + "".join(f".{name}" for name in inside[1:2])


def _clause(column: str, kind: str, message: str, value: Any) -> str:
    if kind == "missing":
        return "required, and not given"
    if kind == "extra_forbidden":
        return "unknown column"
    if column == "strength":
        message = f"expected a number or a list of numbers from {MIN_STRENGTH:g} to {MAX_STRENGTH:g}"
    if column.startswith("edits") and kind in {"tuple_type", "too_short", "model_type"}:
        message = "expected a list of {prompt, strength}"
    if column == "word_weights":
        message = f"expected a mapping of words to factors from {MIN_WEIGHT:g} to {MAX_WEIGHT:g}"
    if kind == "string_pattern_mismatch":
        message = "expected some text"
    return f"{message}; got {reprlib.repr(value)}"


def check_id(column: str, value: str, *, folders: bool) -> None:
    """Refuse an id that could not name an output below `images/`, or would climb out of it.

    Args:
        column: the id's column, for the message.
        value: the id.
        folders: whether the id may have several segments, separated by slashes.

    Raises:
        InvalidRowError: with the reason.
    """
    for problem in _id_problems(value, folders=folders):
        raise InvalidRowError(f"{column}: {problem}; got {reprlib.repr(value)}")


def _id_problems(value: str, *, folders: bool) -> Iterator[str]:
    segments = value.split("/")
    if _CONTROL.search(value):
        yield "expected no control characters"
    if "\\" in value:
        yield "expected no backslashes"
    if len(segments) > 1 and not folders:
        yield "expected no slashes"
    if {"", ".", ".."} & set(segments):
        yield "expected a relative path without empty, . or .. segments"
    if any(len(segment.encode()) > _LONGEST_NAME for segment in segments):
        yield f"expected names of at most {_LONGEST_NAME} bytes"
    if len(value.encode()) > _LONGEST_ID:
        yield f"expected at most {_LONGEST_ID} bytes"
    if _MISLEADING.search(value):
        yield "expected no characters that look like a slash or turn the direction of text"
    if any(segment.endswith((".", " ")) or _DEVICE.fullmatch(segment) for segment in segments):
        yield "expected names that every file system keeps: no dot or space at the end, no device such as NUL"


class UniqueIds:
    """The ids of one manifest so far, and where each stands.

    Ids are the same if a file system may take them for the same: whichever way Unicode composes their letters, and
    with `fold_case` in capitals or not.
    """

    def __init__(self, column: str, *, fold_case: bool = False) -> None:
        self._column = column
        self._fold_case = fold_case
        self._places: dict[str, tuple[str, int]] = {}

    def claim(self, value: str, file: str, line: int) -> None:
        """Take an id for a row.

        Raises:
            InvalidRowError: an earlier row has it.
        """
        name = value if value.isascii() else unicodedata.normalize("NFC", value)
        first = self._places.setdefault(name.casefold() if self._fold_case else name, (file, line))
        if first != (file, line):
            raise InvalidRowError(
                f"{self._column}: expected unique ids; got {value!r} again, first at {first[0]}:{first[1]}"
            )


def printable_id(values: Mapping[str, Any], column: str) -> str | None:
    """The id that a refused row gives, if it is text; what cannot be stored as text is replaced."""
    value = values.get(column)
    return value.encode(errors="replace").decode() if isinstance(value, str) and value else None
