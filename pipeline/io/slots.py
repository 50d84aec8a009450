"""What an output folder holds under the names that manifests use, whatever the bytes and settings were."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pyarrow.parquet as pq

from pipeline.io import storage
from pipeline.io.artifacts import Kind

_READERS: Final = 16


def committed_slots(output: str) -> tuple[set[str], Mapping[str, set[tuple[str, float]]]]:
    """The image ids that have an inversion, and by image id the edit ids and strengths that have a picture."""
    inverted = {image_id for (image_id,) in _rows(output, "inversions", ["image_id"])}
    edited: defaultdict[str, set[tuple[str, float]]] = defaultdict(set)
    for image_id, edit_id, strength in _rows(output, "edits", ["image_id", "edit_id", "strength"]):
        edited[image_id].add((edit_id, strength))
    return inverted, edited


def _rows(output: str, kind: Kind, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    def read(uri: str) -> list[tuple[Any, ...]]:
        table = storage.read_part(uri, lambda file: pq.ParquetFile(file).read(columns=list(columns)))
        return list(zip(*(table[name].to_pylist() for name in columns), strict=True))

    with ThreadPoolExecutor(_READERS) as pool:
        files = storage.list_files(storage.join(output, kind), ".parquet")
        return [row for rows in pool.map(read, files) for row in rows]
