"""The result tables as they are read: all files of a kind, and which rows still count."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

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
# The column that `read_rows` adds.
FILE: Final = "file"


def read_rows(output: str, kind: Kind, columns: Collection[str]) -> pa.Table:
    """Some columns of all rows of a table, and under `file` the URI of each row's file.

    Raises:
        StorageError: a file is not readable as rows of this kind.
    """
    schema = pa.schema([field for field in SCHEMAS[kind] if field.name in columns])
    files = storage.list_files(storage.join(output, kind), ".parquet")
    with ThreadPoolExecutor(_READERS) as pool:
        tables = list(pool.map(partial(_read_columns, kind=kind, schema=schema), files))
    numbers = np.repeat(np.arange(len(files), dtype=np.int32), [len(table) for table in tables])
    uris = pa.DictionaryArray.from_arrays(numbers, pa.array(files, pa.string()))
    return pa.concat_tables([schema.empty_table(), *tables]).append_column(FILE, uris)


def current_rows(output: str, kind: Kind, *columns: str) -> pa.Table:
    """The row of each artifact or picture that is there: the newest of it, unless it was withdrawn since.

    Returns:
        The table's key, what a row is of, its age, the columns that are asked for, and `file`.
    """
    key = KEY_COLUMNS[kind]
    table = read_rows(output, kind, {key, *IDENTITY[kind], *AGE, *columns})
    if kind == "edits":
        # A withdrawal is a newer row without a key.
        withdrawn = read_rows(output, "withdrawals", WITHDRAWAL_SCHEMA.names)
        table = pa.concat_tables([table, withdrawn], promote_options="default")
    current = table.take(newest(table, kind, IDENTITY[kind]))
    return current.filter(pc.is_valid(current[key]))


def newest(table: pa.Table, kind: Kind, of: Sequence[str]) -> NDArray[np.uint64]:
    """Numbers of the rows that are the newest for each value of some columns; the oldest of these rows first."""
    keys = [(name, "ascending", "at_start") for name in (*AGE, KEY_COLUMNS[kind])]
    by_age = pc.sort_indices(table, sort_keys=keys).to_numpy()
    ages = table.select(of).append_column("age", pa.array(np.argsort(by_age)))
    latest: NDArray[np.uint64] = by_age[np.sort(ages.group_by(of).aggregate([("age", "max")])["age_max"].to_numpy())]
    return latest


def _read_columns(uri: str, kind: Kind, schema: pa.Schema) -> pa.Table:
    try:
        table = storage.read_part(uri, lambda file: pq.ParquetFile(file).read(columns=schema.names))
        for field in schema:  # one that an earlier version did not write
            if field.nullable and field.name not in table.column_names:
                table = table.append_column(field, pa.nulls(len(table), field.type))
        return table.select(schema.names).cast(schema)
    except (pa.ArrowException, KeyError) as error:
        raise storage.StorageError(
            f"{uri}: not a readable {kind} file ({' '.join(str(error).split())[:200]})"
        ) from error
