"""The result tables as they are read: all files of a kind, and which rows still count."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, BinaryIO, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.io import storage
from pipeline.io.artifacts import KEY_COLUMNS, SCHEMAS, WITHDRAWAL_SCHEMA, Kind

_READERS: Final = 16
# What a row is of. Of several rows of one artifact or picture the newest says what is there: a picture of another
# prompt has replaced the one before it.
IDENTITY: Final[Mapping[Kind, Sequence[str]]] = {
    "inversions": ("inversion_key",),
    "edits": ("image_id", "edit_id", "strength"),
}
# What tells the newer row: the lease it was committed under (none before there were any), then its time.
AGE: Final = ("fence", "created_at")
# The columns that `read_rows` adds.
FILE: Final = "file"
ROW: Final = "row"
# How often a table is listed anew because a file of the last listing is gone: another took its place.
_LISTINGS: Final = 5
_PART_ROWS: Final = 1 << 14


def read_rows(output: str, kind: Kind, columns: Collection[str]) -> pa.Table:
    """Some columns of all rows of a table, and where each is: in `file` its file's URI, in `row` its number there.

    Raises:
        StorageError: a file is not readable as rows of this kind.
    """
    schema = pa.schema([field for field in SCHEMAS[kind] if field.name in columns])
    files, tables = read_files(output, kind, partial(_read_columns, kind=kind, schema=schema))
    lengths = [len(table) for table in tables]
    uris = pa.DictionaryArray.from_arrays(
        np.repeat(np.arange(len(files), dtype=np.int32), lengths), pa.array(files, pa.string())
    )
    rows = np.concatenate([np.arange(0, dtype=np.int32), *(np.arange(length, dtype=np.int32) for length in lengths)])
    table = pa.concat_tables([schema.empty_table(), *tables])
    return table.append_column(FILE, uris).append_column(ROW, pa.array(rows))


def read_files(output: str, kind: Kind, read: Callable[[str], pa.Table]) -> tuple[list[str], list[pa.Table]]:
    """Read all files of a table, while others may take their places: the files, and what was read of each.

    Raises:
        StorageError: one cannot be read.
    """
    for left in reversed(range(_LISTINGS)):
        files = storage.list_files(storage.join(output, kind), ".parquet")
        try:
            with ThreadPoolExecutor(_READERS) as pool:
                return files, list(pool.map(read, files))
        except storage.StorageError as error:
            if not (error.missing and left):
                raise
    raise AssertionError


def columns_in_parts(table: pa.Table, names: Sequence[str]) -> Iterator[list[list[Any]]]:
    """Some columns of a table as Python's values, so many rows at a time that a million never are there at once."""
    for part in table.select(list(names)).to_batches(max_chunksize=_PART_ROWS):
        yield [column.to_pylist() for column in part.columns]


def among(ordered: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of the wanted values are among some that are in order."""
    if not len(ordered):
        return np.zeros(len(wanted), np.bool_)
    found: NDArray[np.bool_] = ordered[np.minimum(ordered.searchsorted(wanted), len(ordered) - 1)] == wanted
    return found


def current_rows(output: str, kind: Kind, *columns: str) -> pa.Table:
    """The row of each artifact or picture that is there: the newest of it, unless it was withdrawn since.

    Returns:
        The table's key, what a row is of, its age, the columns that are asked for, `file` and `row`.
    """
    table = read_rows(output, kind, {KEY_COLUMNS[kind], *IDENTITY[kind], *AGE, *columns})
    if kind == "edits":
        return table.take(edits_there(table, read_rows(output, "withdrawals", WITHDRAWAL_SCHEMA.names)))
    return table.take(newest(table, kind, IDENTITY[kind]))


def edits_there(edits: pa.Table, withdrawn: pa.Table) -> NDArray[np.uint64]:
    """Numbers of the edits whose pictures are there: the newest in its place, and not withdrawn since."""
    columns = [*IDENTITY["edits"], *AGE]
    # A withdrawal is a newer row without a key.
    rows = [edits.select([*columns, KEY_COLUMNS["edits"]]), withdrawn.select(columns)]
    latest = newest(pa.concat_tables(rows, promote_options="default"), "edits", IDENTITY["edits"])
    return latest[latest < len(edits)]


def newest(table: pa.Table, kind: Kind, of: Sequence[str]) -> NDArray[np.uint64]:
    """Numbers of the rows that are the newest for each value of some columns; the oldest of these rows first."""
    keys = [(name, "ascending", "at_start") for name in (*AGE, KEY_COLUMNS[kind])]
    by_age = pc.sort_indices(table, sort_keys=keys).to_numpy()
    ages = table.select(of).append_column("age", pa.array(np.argsort(by_age)))
    latest: NDArray[np.uint64] = by_age[np.sort(ages.group_by(of).aggregate([("age", "max")])["age_max"].to_numpy())]
    return latest


def read_as(uri: str, kind: Kind, schema: pa.Schema, read: Callable[[BinaryIO], pa.Table]) -> pa.Table:
    """What `read` takes from one file: the schema's columns, then any others.

    Raises:
        StorageError: the file is not readable as rows of this kind.
    """
    try:
        table = storage.read_part(uri, read)
        for field in schema:  # one that an earlier version did not write
            if field.nullable and field.name not in table.column_names:
                table = table.append_column(field, pa.nulls(len(table), field.type))
        others = table.drop_columns([name for name in table.column_names if name in schema.names])
        own = table.select(schema.names).cast(schema)
        return pa.Table.from_arrays([*own.columns, *others.columns], schema=pa.schema([*schema, *others.schema]))
    except (pa.ArrowException, KeyError) as error:
        raise storage.StorageError(
            f"{uri}: not a readable {kind} file ({' '.join(str(error).split())[:200]})"
        ) from error


def _read_columns(uri: str, kind: Kind, schema: pa.Schema) -> pa.Table:
    return read_as(uri, kind, schema, lambda file: _some_columns(file, schema.names))


def _some_columns(file: BinaryIO, names: list[str]) -> pa.Table:
    # Otherwise each column of each row group is a request of its own.
    with pq.ParquetFile(file, pre_buffer=True) as parquet:
        return parquet.read(columns=names)
