"""File formats of manifests: from a file to rows with their line numbers, one bad row at a time."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import yaml

from pipeline.errors import JobError
from pipeline.io import storage
from pipeline.io.bounded_parquet import LONGEST_CELL, MOST_COLUMNS, TooMuchError, read_bounded
from pipeline.io.documents import compose, construct
from pipeline.records import Refusal

TABLES: Final = (".parquet", ".csv", ".jsonl", ".ndjson")
DOCUMENTS: Final = (".yaml", ".yml")
# Of one file of text; more rows are several files, or Parquet.
_MOST_TEXT: Final = 1 << 30
_DEEPEST: Final = 16


@dataclass(frozen=True)
class Line:
    """One row of a manifest file: where it stands, and its values."""

    number: int
    values: dict[str, Any]


def read_lines(uri: str, required: Sequence[str]) -> tuple[list[Line], list[Refusal]]:
    """All rows of a manifest file, and refusals for those that cannot be read as a row.

    Line numbers count from 1; a Parquet file's are row numbers.

    Raises:
        JobError: the file is absent, cannot be read as what its name says, or is a table without a required column.
    """
    return _sorted_out(uri, _parsed(uri, required))


def read_lines_in_parts(uri: str, required: Sequence[str], rows: int) -> Iterator[tuple[list[Line], list[Refusal]]]:
    """The same, at most so many rows at a time; one part at least.

    Raises:
        JobError: as `read_lines`.
    """
    parsed = _parsed(uri, required)
    part = list(itertools.islice(parsed, rows))
    while True:
        yield _sorted_out(uri, part)
        if not (part := list(itertools.islice(parsed, rows))):
            return


def _parsed(uri: str, required: Sequence[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The number of each row, and its values, or why it has none."""
    if has_suffix(uri, (".parquet",)):
        rows = read_parquet(uri, required).to_pylist(maps_as_pydicts="lossy")
        return enumerate(map(_parquet_row, rows), 1)
    text = _text(uri)
    if has_suffix(uri, (".csv",)):
        return _csv(uri, text, required)
    return _yaml(uri, text) if has_suffix(uri, DOCUMENTS) else _jsonl(text)


def _sorted_out(uri: str, parsed: Iterable[tuple[int, dict[str, Any] | str]]) -> tuple[list[Line], list[Refusal]]:
    lines: list[Line] = []
    refusals: list[Refusal] = []
    for number, row in parsed:
        if isinstance(row, str):
            refusals.append(Refusal(uri, number, row))
        else:
            lines.append(Line(number, row))
    return lines, refusals


def read_parquet(uri: str, required: Sequence[str]) -> pa.Table:
    """A Parquet file as a table.

    Raises:
        JobError: it is absent or not Parquet, lacks a required column, or has two columns of one name.
    """
    try:
        table = storage.read_part(uri, read_bounded)
    except storage.StorageError as error:
        raise JobError(f"manifest {error}") from error
    except TooMuchError as error:
        raise JobError(f"manifest {uri}: {error}") from error
    # pyarrow's own exceptions, and what its Python side makes of a damaged footer's names and numbers.
    except (pa.ArrowException, ValueError, LookupError, OverflowError, TypeError) as error:
        raise JobError(f"manifest {uri}: not a Parquet file ({' '.join(str(error).split())[:200]})") from error
    _check_header(uri, table.column_names, required)
    return table


def has_suffix(uri: str, suffixes: tuple[str, ...]) -> bool:
    """Whether a name ends in one of the suffixes, in capitals or not."""
    return uri.lower().endswith(suffixes)


def check_suffix(uri: str, suffixes: tuple[str, ...]) -> None:
    """Refuse a manifest whose format is not known from its name.

    Raises:
        JobError: its name has none of the suffixes.
    """
    if not has_suffix(uri, suffixes):
        got = "a folder" if storage.is_folder(uri) else "another file" if storage.exists(uri) else "nothing there"
        raise JobError(f"manifest {uri}: expected a {', '.join(suffixes)} file; got {got}")


def check_required(uri: str, names: Sequence[str], required: Sequence[str]) -> None:
    """Refuse a table without a column that every row must have.

    Raises:
        JobError: a column is missing.
    """
    if not set(required) <= set(names):
        raise JobError(f"manifest {uri}: expected columns {', '.join(required)}; got {', '.join(names) or 'none'}")


def check_columns(uri: str, count: int) -> None:
    """Refuse a table of more columns than anyone names: each is carried to every output row.

    Raises:
        JobError: there are too many.
    """
    if count > MOST_COLUMNS:
        raise JobError(f"manifest {uri}: expected at most {MOST_COLUMNS} columns; got {count}")


def _check_header(uri: str, names: list[str], required: Sequence[str]) -> None:
    check_required(uri, names, required)
    check_columns(uri, len(names))
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise JobError(f"manifest {uri}: expected each column once; got {', '.join(map(repr, twice))} twice")


def _text(uri: str) -> str:
    try:
        return storage.read_bytes(uri, _MOST_TEXT).decode("utf-8-sig")
    except storage.StorageError as error:
        raise JobError(f"manifest {error}") from error
    except UnicodeDecodeError as error:
        raise JobError(f"manifest {uri}: expected UTF-8 text; got byte {error.object[error.start]:#04x}") from error


def _parquet_row(row: dict[str, Any]) -> dict[str, Any]:
    # All rows of a struct column have all its fields: a null field is one that this row does not have.
    return {
        name: {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value
        for name, value in row.items()
    }


def _csv(uri: str, text: str, required: Sequence[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Rows of CSV: all values are text, empty cells are null."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(uri, header, required)
        start = reader.line_num + 1
        for cells in reader:
            if cells:
                yield start, _csv_row(header, cells)
            start = reader.line_num + 1
    except csv.Error as error:
        raise JobError(f"manifest {uri}:{reader.line_num}: not CSV ({error})") from error


def _csv_row(header: list[str], cells: list[str]) -> dict[str, Any] | str:
    if len(cells) != len(header):
        return f"expected {len(header)} cells, as in the header; got {len(cells)}"
    return {name: cell or None for name, cell in zip(header, cells, strict=True)}


def _jsonl(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    # str.splitlines would also split at characters that JSON allows inside strings.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, _json_row(line)


def _json_row(line: str) -> dict[str, Any] | str:
    if len(line) > LONGEST_CELL:
        return f"expected at most {LONGEST_CELL} characters in a row; got {len(line)}"
    try:
        row = json.loads(line, parse_constant=_refuse_constant)
        # An escaped half of a surrogate pair is JSON, but not text that could be stored.
        json.dumps(row, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        return f"not JSON ({str(error) or type(error).__name__})"
    if not isinstance(row, dict):
        return f"expected a JSON object; got {type(row).__name__}"
    return f"expected values nested at most {_DEEPEST} deep" if _is_deeper(row, _DEEPEST) else row


def _is_deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    return not levels or any(_is_deeper(v, levels - 1) for v in (value.values() if isinstance(value, dict) else value))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _yaml(uri: str, text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Rows of a YAML list of mappings."""
    try:
        node = compose(text)
    except ValueError as error:
        raise JobError(f"manifest {uri}: {error}") from error
    if node is None:
        return
    if not isinstance(node, yaml.SequenceNode):
        raise JobError(f"manifest {uri}:{node.start_mark.line + 1}: expected a list of rows")
    for item in node.value:
        yield item.start_mark.line + 1, _yaml_row(item)


def _yaml_row(node: yaml.Node) -> dict[str, Any] | str:
    try:
        row = construct(node)
    except ValueError as error:
        return str(error)
    if not isinstance(row, dict) or not all(isinstance(name, str) for name in row):
        return "expected a mapping of column names to values"
    return row
