"""Columns of lists and structs of a Parquet file, read by a process that has so much memory and no more.

How many values they stand for neither a footer nor a file's size tells. `bounded_parquet` starts this file by its path,
with Parquet on standard input; out come the columns, as an Arrow stream.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

UNREADABLE: Final = 1  # and standard error says why
TOO_MUCH: Final = 3
# What reading takes of the address space, in all: so many bytes, and so many for each that comes out.
_BASE: Final = 256 << 20
_READING: Final = 2


def nested_names(schema: pa.Schema) -> list[str]:
    """The columns that have others inside."""
    return [field.name for field in schema if pa.types.is_nested(_stored(field.type))]


def _stored(kind: Any) -> Any:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _values(array: Any) -> int:
    """How many values stand in an array, those in lists and structs counted one by one."""
    if isinstance(array, pa.ExtensionArray):
        return _values(array.storage)
    if pa.types.is_struct(array.type):
        return len(array) + sum(map(_values, array.flatten()))
    if pa.types.is_map(array.type):
        return len(array) + _values(array.keys) + _values(array.items)
    return len(array) + (_values(array.flatten()) if pa.types.is_nested(array.type) else 0)


def _bound_memory(more: int) -> None:
    """Let this process have so many bytes more than it has, if it may have as many."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except OSError:
        return  # no Linux; there such a limit is of no use either
    most, (_, allowed) = pages * resource.getpagesize() + more, resource.getrlimit(resource.RLIMIT_AS)
    if allowed == resource.RLIM_INFINITY or most < allowed:
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main(most_values: int, most_bytes: int) -> int:
    """Read, check and pass on; the process's exit code."""
    data = sys.stdin.buffer.read()
    _bound_memory(_BASE + _READING * most_bytes)
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as parquet:
            names = nested_names(parquet.schema_arrow)
            table = parquet.read(columns=names, use_threads=False).select(names)
        table.validate(full=True)
        values = sum(_values(chunk) for column in table.columns for chunk in column.chunks)
        if values > most_values or table.nbytes > most_bytes:
            return TOO_MUCH
        with pa.ipc.new_stream(sys.stdout.buffer, table.schema) as out:
            out.write_table(table)
    except MemoryError:
        return TOO_MUCH
    except (pa.ArrowException, ValueError, LookupError, OverflowError, TypeError) as error:
        sys.stderr.write(str(error))
        return UNREADABLE
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
