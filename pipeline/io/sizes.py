"""How many bytes there are to read, and how many results have taken: from the storage's listings, reading nothing."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from pipeline.io import storage
from pipeline.io.outcomes import picture_uris
from pipeline.io.sampling import sample

# One request each on object storage: a few seconds for as many as these.
_LOOKED_AT: Final = 256
_THREADS: Final = 16


@dataclass(frozen=True, slots=True)
class Bytes:
    """The sizes of some files, known from `looked_at` of them, of which `missing` are not there."""

    files: int
    looked_at: int
    missing: int
    there: int

    @property
    def total(self) -> int:
        """Of all files, at the mean of those that were looked at."""
        return round(self.there * self.files / max(self.looked_at, 1))

    @property
    def each(self) -> float | None:
        """The mean of those that are there; None where none is."""
        found = self.looked_at - self.missing
        return self.there / found if found else None


def bytes_of(uris: Sequence[str]) -> Bytes:
    """The sizes of these files, from a sample where they are many.

    Raises:
        StorageError: the storage does not answer.
    """
    looked_at = [uris[i] for i in sample(uris, _LOOKED_AT)]
    with ThreadPoolExecutor(_THREADS) as pool:
        sizes = list(pool.map(_size, looked_at))
    return Bytes(len(uris), len(looked_at), sizes.count(None), sum(size or 0 for size in sizes))


def bytes_per_result(output: str, inversions: int) -> tuple[float | None, float | None]:
    """The mean sizes of an output's artifacts, of which there are so many, and of its pictures; None without any."""
    artifacts = bytes_of(storage.list_files(storage.join(output, "inversions"), ".parquet"))
    return artifacts.total / inversions if inversions else None, bytes_of(picture_uris(output)).each


def _size(uri: str) -> int | None:
    try:
        return storage.size(uri)
    except storage.StorageError as error:
        if error.missing:
            return None
        raise
