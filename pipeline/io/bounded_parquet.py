"""Parquet of unknown origin, read within bounds: a few kilobytes of it can stand for terabytes of repeated values."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import BinaryIO, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.io import nested_parquet
from pipeline.io.nested_parquet import nested_names

MOST_COLUMNS: Final = 1000
LONGEST_CELL: Final = 1_000_000  # bytes
_MOST_VALUES: Final = 200_000_000
_MOST_NESTED_VALUES: Final = 50_000_000  # they may all stand in one row, and are then Python's at once
_MOST_BYTES: Final = 2 << 30
_TEXTS: Final = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)


class TooMuchError(ValueError):
    """A file stands for more than is read; the text says for what."""


def read_bounded(file: BinaryIO) -> pa.Table:
    """A whole Parquet file.

    Raises:
        TooMuchError: it has too many columns or values, or too long a text.
        pyarrow.ArrowException: it is not Parquet, or a text in it is not UTF-8.
        ValueError: its names are ambiguous.
    """
    with pq.ParquetFile(file) as parquet:
        schema = parquet.schema_arrow
        _check_declared(parquet.metadata, schema)
    nested, texts = nested_names(schema), [field.name for field in schema if _is_text(field.type)]
    flat = [name for name in schema.names if name not in nested]
    if nested:
        _check_names(schema.names, nested)
    file.seek(0)
    # Read so, a text that stands in many rows is still there once.
    with pq.ParquetFile(file, read_dictionary=texts) as parquet:
        table = parquet.read(columns=flat if nested else None)
    for name in texts:
        _check_texts(name, table.column(table.schema.get_field_index(name)))
    if nested:
        apart = _read_apart(file, nested)
        columns = [(apart if name in nested else table).column(name) for name in schema.names]
        table = pa.table(columns, schema.names)
    table = table.cast(schema)
    table.validate(full=True)
    return table


def _check_declared(metadata: pq.FileMetaData, schema: pa.Schema) -> None:
    if len(schema) > MOST_COLUMNS:
        raise TooMuchError(f"expected at most {MOST_COLUMNS} columns; got {len(schema)}")
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    # Not what the columns declare of themselves: to ask a damaged footer for it ends the process (pyarrow 26).
    values = max(metadata.num_rows, sum(group.num_rows for group in groups)) * metadata.num_columns
    size = sum(group.total_byte_size for group in groups)
    if values > _MOST_VALUES or size > _MOST_BYTES:
        most = f"{_MOST_VALUES} values and {_MOST_BYTES} bytes"
        raise TooMuchError(f"expected at most {most} in one file; got {values} values, {size} bytes; split it")
    widths = [field.type.byte_width for field in schema if pa.types.is_fixed_size_binary(field.type)]
    if (written := sum(widths) * metadata.num_rows) > _MOST_BYTES:
        raise TooMuchError(f"expected at most {_MOST_BYTES} bytes of fixed length; got {written}")


def _check_names(names: Sequence[str], nested: Sequence[str]) -> None:
    """Columns are asked for by their paths, in which a dot stands before what is inside."""
    for name in names:
        if names.count(name) > 1 or any(name.startswith(f"{outer}.") for outer in nested):
            raise ValueError(f"expected columns of different names, none like a part of another; got {name!r}")


def _read_apart(file: BinaryIO, nested: Sequence[str]) -> pa.Table:
    """Columns of lists and structs, read by another process (`nested_parquet`)."""
    most = f"{_MOST_NESTED_VALUES} values and {_MOST_BYTES} bytes"
    refused = TooMuchError(f"columns {', '.join(nested)[:100]}: expected at most {most} in lists and structs; got more")
    file.seek(0)
    data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise refused
    words = [sys.executable, "-I", nested_parquet.__file__, str(_MOST_NESTED_VALUES), str(_MOST_BYTES)]
    # Other pools of memory reserve more of the address space than they use.
    environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"}
    done = subprocess.run(words, input=data, capture_output=True, check=False, env=environment)  # noqa: S603 - Python
    if done.returncode == nested_parquet.UNREADABLE:
        raise pa.ArrowInvalid(done.stderr.decode(errors="replace"))
    if done.returncode:
        raise refused
    return pa.ipc.open_stream(done.stdout).read_all()


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return any(is_kind(kind) for is_kind in _TEXTS)


def _check_texts(name: str, column: pa.ChunkedArray) -> None:
    total = 0
    for chunk in column.chunks:
        lengths = pc.binary_length(chunk.dictionary)
        if (pc.max(lengths).as_py() or 0) > LONGEST_CELL:
            raise TooMuchError(f"column {name}: expected texts of at most {LONGEST_CELL} bytes")
        total += pc.sum(lengths.take(chunk.indices)).as_py() or 0
    if total > _MOST_BYTES:
        raise TooMuchError(f"column {name}: expected at most {_MOST_BYTES} bytes of text; got {total}")
