"""Parquet of unknown origin, read within bounds: a few kilobytes of it can stand for terabytes of repeated values."""

from __future__ import annotations

from typing import BinaryIO, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

MOST_COLUMNS: Final = 1000
LONGEST_CELL: Final = 1_000_000  # bytes
_MOST_VALUES: Final = 200_000_000
_MOST_BYTES: Final = 2 << 30


class TooMuchError(ValueError):
    """A file stands for more than is read; the text says for what."""


def read_bounded(file: BinaryIO) -> pa.Table:
    """A whole Parquet file.

    Raises:
        TooMuchError: it has too many columns or values, or too long a text.
        pyarrow.ArrowException: it is not Parquet, or a text in it is not UTF-8.
    """
    with pq.ParquetFile(file) as parquet:
        _check_declared(parquet.metadata, len(parquet.schema_arrow))
        schema = parquet.schema_arrow
    texts = [field.name for field in schema if _is_text(field.type)]
    file.seek(0)
    # Read so, a text that stands in many rows is still there once.
    with pq.ParquetFile(file, read_dictionary=texts) as parquet:
        table = parquet.read()
    for name in texts:
        _check_texts(name, table.column(schema.get_field_index(name)))
    table = table.cast(schema)
    table.validate(full=True)
    return table


def _check_declared(metadata: pq.FileMetaData, columns: int) -> None:
    if columns > MOST_COLUMNS:
        raise TooMuchError(f"expected at most {MOST_COLUMNS} columns; got {columns}")
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    # Not what the columns declare of themselves: to ask a damaged footer for it ends the process (pyarrow 26).
    values = max(metadata.num_rows, sum(group.num_rows for group in groups)) * metadata.num_columns
    size = sum(group.total_byte_size for group in groups)
    if values > _MOST_VALUES or size > _MOST_BYTES:
        most = f"{_MOST_VALUES} values and {_MOST_BYTES} bytes"
        raise TooMuchError(f"expected at most {most} in one file; got {values} values, {size} bytes; split it")


def _is_text(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in (pa.types.is_string, pa.types.is_binary))


def _check_texts(name: str, column: pa.ChunkedArray) -> None:
    total = 0
    for chunk in column.chunks:
        lengths = pc.binary_length(chunk.dictionary)
        if (pc.max(lengths).as_py() or 0) > LONGEST_CELL:
            raise TooMuchError(f"column {name}: expected texts of at most {LONGEST_CELL} bytes")
        total += pc.sum(lengths.take(chunk.indices)).as_py() or 0
    if total > _MOST_BYTES:
        raise TooMuchError(f"column {name}: expected at most {_MOST_BYTES} bytes of text; got {total}")
