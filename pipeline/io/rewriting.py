"""New files in the places of old ones: a table without some of its rows, or in fewer files.

A new file is there, whole, before the first of those whose rows it holds is removed (infra/decisions/0016-upkeep.md).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.io import storage
from pipeline.io.artifacts import IDENTIFYING, Kind, identities, write_table
from pipeline.io.lease import Fence
from pipeline.io.listing import list_sizes, remove_files
from pipeline.io.rows_read import AGE, FILE, read_rows

# What files are merged up to.
_MOST_BYTES: Final = 128 << 20

Keep = NDArray[np.bool_]
# Its URI, the numbers of its rows that are kept, and how many it has.
_File = tuple[str, NDArray[np.int64], int]


@dataclass(frozen=True, eq=False)
class Index:
    """All rows of a table, file by file: what each is, and some of its columns.

    Attributes:
        rows: a table of the columns that were asked for, those that say what a row is and how old, and `file`.
        sizes: bytes of each file.
    """

    kind: Kind
    rows: Any
    sizes: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> list[Any]:
        """The values of one column."""
        values: list[Any] = self.rows[name].to_pylist()
        return values

    def chosen(self, rows: Iterable[int]) -> Keep:
        """A choice of rows by their numbers."""
        chosen = np.zeros(len(self), np.bool_)
        chosen[np.fromiter(rows, np.int64)] = True
        return chosen

    def once(self) -> Keep:
        """A choice that has each row once: of the same one the newest, and of those the one in the largest file."""
        fences, times = map(self.column, AGE)
        ranks = [
            (fence or 0, time, self.sizes.get(file, 0), file)
            for fence, time, file in zip(fences, times, self.column(FILE), strict=True)
        ]
        best: dict[str, int] = {}
        for at, identity in enumerate(identities(self.kind, self.rows)):
            if identity not in best or ranks[best[identity]] < ranks[at]:
                best[identity] = at
        return self.chosen(best.values())

    def files(self, keep: Keep) -> Iterator[_File]:
        """Each file, the numbers of its rows that are to be kept, and how many it has."""
        files = self.rows[FILE].combine_chunks()
        lengths = np.bincount(files.indices.to_numpy(), minlength=len(files.dictionary))
        for uri, length, end in zip(files.dictionary.to_pylist(), lengths, np.cumsum(lengths), strict=True):
            yield uri, np.flatnonzero(keep[end - length : end]), int(length)

    def bytes_of(self, rows: Keep) -> int:
        """About how many bytes some rows take: their shares of their files."""
        return round(sum(self.sizes.get(uri, 0) * len(at) / max(of, 1) for uri, at, of in self.files(rows)))


def read_index(output: str, kind: Kind, columns: Collection[str] = ()) -> Index:
    """Read what rows a table has.

    Raises:
        StorageError: a file is not readable as rows of this kind.
    """
    rows = read_rows(output, kind, {*IDENTIFYING[kind], *AGE, *columns})
    return Index(kind, rows, list_sizes(storage.join(output, kind), ".parquet"))


def drop_rows(fence: Fence, index: Index, keep: Keep) -> None:
    """Let each file that has other rows than those to keep, each of which is kept once, be replaced by one without.

    Raises:
        JobError: another run has taken over.
        StorageError: a file cannot be read, written or removed.
    """
    assert keep.sum() == len(set(identities(index.kind, index.rows.filter(pa.array(keep)))))
    for uri, at, of in _empty_first(index.files(keep)):
        if len(at) < of:
            _replace(fence, index.kind, [uri], _rows(uri, at) if len(at) else None)


def merge_files(fence: Fence, kind: Kind) -> tuple[int, int]:
    """Let few files take the place of many small ones, of the same columns; a row that is there twice stays once.

    Returns:
        How many files there were, and how many there are.

    Raises:
        JobError: another run has taken over.
        StorageError: a file cannot be read, written or removed.
    """
    index = read_index(fence.output, kind)
    for uris, tables in _groups(index):
        _replace(fence, kind, uris, pa.concat_tables(tables) if tables else None)
    return len(index.sizes), len(storage.list_files(storage.join(fence.output, kind), ".parquet"))


def _empty_first(files: Iterable[_File]) -> list[_File]:
    """Files none of whose rows are kept before the others: a file of theirs, being named by its rows, may get the name.

    Where a rewriting was killed, this is how the new file is found beside the old one.
    """
    return sorted(files, key=lambda file: len(file[1]) > 0)


@dataclass(frozen=True, slots=True)
class _Small:
    """A small file, and the rows of it that stay; `whole` if all do."""

    uri: str
    size: int
    rows: pa.Table
    whole: bool


def _groups(index: Index) -> Iterator[tuple[list[str], list[pa.Table]]]:
    """Files that become one, and their rows, each row once; the smallest files first."""
    groups: defaultdict[str, list[_Small]] = defaultdict(list)
    by_size = sorted(index.files(index.once()), key=lambda file: (index.sizes.get(file[0], 0), file[0]))
    for uri, at, of in _empty_first(by_size):
        size = index.sizes.get(uri, 0)
        if not len(at):
            yield [uri], []
        elif size < _MOST_BYTES // 2:
            file = _Small(uri, size, _rows(uri, at), whole=len(at) == of)
            group = groups[file.rows.schema.to_string(show_schema_metadata=False)]
            if sum(small.size for small in group) + size > _MOST_BYTES:
                yield from _merged(group)
                group.clear()
            group.append(file)
        elif len(at) < of:
            yield [uri], [_rows(uri, at)]
    for group in groups.values():
        yield from _merged(group)


def _merged(group: Sequence[_Small]) -> Iterator[tuple[list[str], list[pa.Table]]]:
    """A group, unless it is one file that can stay as it is."""
    if len(group) > 1 or not all(file.whole for file in group):
        yield [file.uri for file in group], [file.rows for file in group]


def _rows(uri: str, at: NDArray[np.int64]) -> pa.Table:
    table = storage.read_part(uri, lambda file: pq.ParquetFile(file, pre_buffer=True).read())
    return table.take(pa.array(at))


def _replace(fence: Fence, kind: Kind, old: Sequence[str], table: pa.Table | None) -> None:
    """Write the rows, where there are any, then remove the files that they were in."""
    fence.check()
    new = None if table is None else write_table(fence.output, kind, table)
    remove_files(fence, [uri for uri in old if uri != new])
