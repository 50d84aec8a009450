"""The image manifest: files, folders and patterns of rows or of pictures, as one checked table."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import pyarrow as pa

from pipeline.errors import JobError
from pipeline.io import storage
from pipeline.io.formats import (
    TABLES,
    Line,
    check_columns,
    check_required,
    check_suffix,
    has_suffix,
    read_lines,
    read_lines_in_parts,
    read_parquet,
)
from pipeline.io.uris import UriRefusedError, canonical, check_allowed, is_pattern, parent, pattern_root, resolve
from pipeline.io.validation import InvalidRowError, UniqueIds, check_id, printable_id, valid
from pipeline.records import ImageRow, Refusal

_T = TypeVar("_T")

_OURS: Final = tuple(ImageRow.model_fields)
_REQUIRED: Final = tuple(name for name, field in ImageRow.model_fields.items() if field.is_required())
_PART_ROWS: Final = 1 << 14
_PICTURES: Final = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif")


@dataclass(frozen=True)
class ImageManifest:
    """The image rows that are valid, and those that are not.

    Attributes:
        table: image_id, image_uri, source_prompt, mask_uri as strings, URIs absolute; then the user's columns.
    """

    table: pa.Table
    refusals: tuple[Refusal, ...]


@dataclass(frozen=True)
class _Part:
    """Some rows of a manifest's file: our columns of them, and the user's."""

    file: str
    folder: str
    lines: Sequence[Line]
    carried: Mapping[str, pa.Array | pa.ChunkedArray]
    refusals: Sequence[Refusal] = ()


@dataclass(frozen=True, slots=True)
class _Terms:
    """What rows are held to: prefixes of their URIs, and whether ids differ by more than capitals."""

    allow: tuple[str, ...]
    fold_case: bool


def read_images(uri: str, output: str | None = None, allow: Sequence[str] = ()) -> ImageManifest:
    """Read an image manifest: Parquet, CSV or JSONL; or a folder or pattern of such files or of pictures.

    If a folder or pattern has pictures, they are the rows, and `image_id` is the path below the folder
    without its suffix. Columns of CSV are text; a column of JSONL has the type that fits all its values.

    Args:
        uri: the manifest.
        output: the job's own folder: what lies below it is a result, also where the manifest's folder holds it.
        allow: prefixes of the URIs that rows may name; none: any that `check_allowed` allows.

    Raises:
        JobError: nothing is there, or a file cannot be read as what its name says.
    """
    files = _listing(uri)
    terms = _Terms(tuple(map(canonical, allow)), output is not None and _asked(storage.folds_case, output))
    if files is None:
        check_suffix(uri, TABLES)
        return _collected(_parts(uri), terms)
    if output is not None:
        files = [file for file in files if not file.startswith(canonical(output).rstrip("/") + "/")]
    if pictures := [file for file in files if has_suffix(file, _PICTURES)]:
        return _collected([_picture_part(uri, pictures)], terms)
    if tables := [file for file in files if has_suffix(file, TABLES)]:
        return _collected(itertools.chain.from_iterable(map(_parts, tables)), terms)
    raise JobError(f"manifest {uri}: expected pictures or {', '.join(TABLES)} files outside the output; got none")


def _listing(uri: str) -> list[str] | None:
    """The files of a folder or pattern; None if the URI is neither."""
    if is_pattern(uri) and not _asked(storage.exists, uri):
        return _asked(storage.glob, uri)
    return _asked(storage.list_files, uri) if _asked(storage.is_folder, uri) else None


def _asked(question: Callable[[str], _T], uri: str) -> _T:
    try:
        return question(uri)
    except storage.StorageError as error:
        raise JobError(f"manifest {error}") from error


def _picture_part(uri: str, pictures: Sequence[str]) -> _Part:
    root = pattern_root(uri) if is_pattern(uri) else canonical(uri)
    names = [file.removeprefix(root).lstrip("/").rpartition(".")[0] for file in pictures]
    rows = zip(names, pictures, strict=True)
    lines = [Line(number, {"image_id": name, "image_uri": file}) for number, (name, file) in enumerate(rows, 1)]
    return _Part(file=uri, folder=root, lines=lines, carried={})


def _parts(file: str) -> Iterator[_Part]:
    """A file's rows, so many at a time that Python's values of a million are never there at once.

    The columns of JSONL, which has no header, and their types are those of all its rows: it is one part.
    """
    if has_suffix(file, (".parquet",)):
        yield from _parquet_parts(file)
    elif has_suffix(file, (".csv",)):
        for lines, refusals in read_lines_in_parts(file, _REQUIRED, _PART_ROWS):
            yield _text_part(file, lines, refusals)
    else:
        yield _text_part(file, *read_lines(file, _REQUIRED))


def _text_part(file: str, lines: Sequence[Line], refusals: Sequence[Refusal]) -> _Part:
    columns = list(dict.fromkeys(name for line in lines for name in line.values))
    if lines:  # those of JSONL, which has no header
        check_required(file, columns, _REQUIRED)
        check_columns(file, len(columns))
    carried = {name: _column([line.values.get(name) for line in lines]) for name in columns if name not in _OURS}
    return _Part(file, parent(file), lines, carried, refusals)


def _parquet_parts(file: str) -> Iterator[_Part]:
    table = read_parquet(file, _REQUIRED)
    ours = pa.table({name: _strings(file, name, table.column(name)) for name in _OURS if name in table.column_names})
    own = table.select([name for name in table.column_names if name not in _OURS])
    for start in range(0, max(len(table), 1), _PART_ROWS):
        rows = ours.slice(start, _PART_ROWS).to_pylist()
        part = own.slice(start, _PART_ROWS)
        lines = [Line(number, row) for number, row in enumerate(rows, start + 1)]
        yield _Part(file, parent(file), lines, dict(zip(part.column_names, part.columns, strict=True)))


def _strings(file: str, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_null(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise JobError(f"manifest {file}: column {name}: expected strings; got {column.type}")
    return column.cast(pa.string())


def _collected(parts: Iterable[_Part], terms: _Terms) -> ImageManifest:
    unique = UniqueIds("image_id", fold_case=terms.fold_case)
    tables, refusals = [], []
    for part in parts:
        table, refused = _checked(part, unique, terms.allow)
        tables.append(table)
        refusals += sorted([*part.refusals, *refused], key=lambda r: r.line)
    try:
        return ImageManifest(pa.concat_tables(tables, promote_options="permissive"), tuple(refusals))
    except pa.ArrowException as error:
        raise JobError(f"manifest: files differ in the type of a column ({error})") from error


def _checked(part: _Part, unique: UniqueIds, allow: Sequence[str]) -> tuple[pa.Table, list[Refusal]]:
    rows: list[Mapping[str, str | None]] = []  # of one part
    accepted: list[int] = []
    refusals = []
    for at, line in enumerate(part.lines):
        try:
            rows.append(_row(line, part, unique, allow))
            accepted.append(at)
        except (InvalidRowError, UriRefusedError) as error:
            refusals.append(Refusal(part.file, line.number, str(error), printable_id(line.values, "image_id")))
    ours = {name: pa.array([row[name] for row in rows], pa.string()) for name in _OURS}
    carried = {name: column.take(pa.array(accepted, pa.int64())) for name, column in part.carried.items()}
    return pa.table({**ours, **carried}), refusals


def _row(line: Line, part: _Part, unique: UniqueIds, allow: Sequence[str]) -> Mapping[str, str | None]:
    """Our columns of a valid row, URIs absolute. Plain values: to copy a model takes longer than to check it."""
    row = valid(ImageRow, {name: line.values.get(name) for name in _OURS})
    check_id("image_id", row.image_id, folders=True)
    image_uri, mask_uri = (_absolute(uri, part, allow) for uri in (row.image_uri, row.mask_uri))
    unique.claim(row.image_id, part.file, line.number)
    return {
        "image_id": row.image_id,
        "image_uri": image_uri,
        "source_prompt": row.source_prompt,
        "mask_uri": mask_uri,
    }


def _absolute(uri: str | None, part: _Part, allow: Sequence[str]) -> str | None:
    if uri is None:
        return None
    absolute = resolve(uri, part.folder)
    check_allowed(absolute, part.file, allow)
    return absolute


def _column(values: list[Any]) -> pa.Array:
    """The user's values in the type that fits them all; values of several types become text."""
    if all(value is None for value in values):
        return pa.array(values, pa.string())
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):
        texts = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
        return pa.array(texts, pa.string())
