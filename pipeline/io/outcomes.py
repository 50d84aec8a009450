"""What an output folder already holds: which keys are committed, what failed, and counts of both."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import RowError
from pipeline.io import storage
from pipeline.io.artifacts import FAILURE_SCHEMA, IDENTIFYING, KEY_COLUMNS, RECOVERED, Kind
from pipeline.io.rows_read import AGE, FILE, IDENTITY, ROW, among, columns_in_parts, current_rows, newest, read_rows


@dataclass(frozen=True, eq=False)
class KeyIndex:
    """The committed keys of one table and the file that holds each.

    72 bytes a key, in arrays that workers can share without copying.

    Attributes:
        keys: sorted, one of each, dtype S64.
        file_numbers: index into `files`, per key.
        row_numbers: which row of its file each is.
        files: URIs.
    """

    keys: NDArray[np.bytes_]
    file_numbers: NDArray[np.int32]
    row_numbers: NDArray[np.int32]
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._find(key) is not None

    def holds(self, keys: Sequence[str]) -> NDArray[np.bool_]:
        """Which of these are committed."""
        return among(self.keys, np.array(keys, self.keys.dtype))

    def place_of(self, key: str) -> tuple[str, int]:
        """URI of a file that holds the key, and which of its rows does.

        Raises:
            KeyError: it is not committed.
        """
        at = self._find(key)
        if at is None:
            raise KeyError(key)
        return self.files[int(self.file_numbers[at])], int(self.row_numbers[at])

    def _find(self, key: str) -> int | None:
        wanted = key.encode()
        at = int(self.keys.searchsorted(wanted))
        return at if at < len(self.keys) and self.keys[at] == wanted else None


@dataclass(frozen=True, eq=False)
class InversionIndex(KeyIndex):
    """The committed inversions, and whose they are: images of the same bytes share one, and have a row each.

    Attributes:
        rows: sorted hashes of inversion key and image id, 8 bytes each.
    """

    rows: NDArray[np.uint64]

    def has_row(self, key: str, image_id: str) -> bool:
        """Whether an image has a row of its own for this inversion."""
        return bool(self.have_rows([key], [image_id])[0])

    def have_rows(self, keys: Sequence[str], image_ids: Sequence[str]) -> NDArray[np.bool_]:
        """Which of these images have a row of their own, each for the inversion of this key."""
        return among(self.rows, np.fromiter(map(_hash, keys, image_ids), np.uint64, len(keys)))


@dataclass(frozen=True, eq=False)
class EditIndex(KeyIndex):
    """The committed edits, and the places in which their pictures are.

    Attributes:
        places: sorted hashes of image id, edit id and strength, 8 bytes each.
    """

    places: NDArray[np.uint64]

    def in_place_of(self, key: str, image_id: str, edit_id: str, strength: float) -> bool:
        """Whether an edit's picture is to be where another edit's is."""
        place = np.array([_hash(image_id, edit_id, strength)], np.uint64)
        return key not in self and bool(among(self.places, place)[0])


def _hash(*names: str | float) -> int:
    """8 bytes of what a few names are together."""
    text = "\0".join([name if isinstance(name, str) else repr(name) for name in names])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def committed_inversions(output: str) -> InversionIndex:
    """Index of all inversions in an output folder."""
    table = read_rows(output, "inversions", {*IDENTIFYING["inversions"], *AGE})
    rows = _hashes(table, IDENTIFYING["inversions"])
    return InversionIndex(*_index(table.take(newest(table, "inversions", IDENTITY["inversions"])), "inversions"), rows)


def has_inversions(output: str) -> bool:
    """Whether an output holds any artifact."""
    return bool(storage.list_files(storage.join(output, "inversions"), ".parquet"))


def committed_slots(output: str) -> tuple[set[str], Mapping[str, Mapping[tuple[str, float], str]]]:
    """What is there under the names that manifests use, whatever the bytes and settings were.

    Returns:
        The image ids that have an inversion, and by image id the edit ids and strengths that have a picture, with its
        prompt.
    """
    inverted = set(read_rows(output, "inversions", {"image_id"})["image_id"].to_pylist())
    edited: defaultdict[str, dict[tuple[str, float], str]] = defaultdict(dict)
    columns = (*IDENTITY["edits"], "prompt")
    table = current_rows(output, "edits", "prompt")
    for image_id, edit_id, strength, prompt in zip(*(table[name].to_pylist() for name in columns), strict=True):
        edited[image_id][edit_id, strength] = prompt
    return inverted, edited


def committed_edits(output: str) -> EditIndex:
    """Index of the edits whose pictures an output folder holds."""
    table = current_rows(output, "edits")
    return EditIndex(*_index(table, "edits"), _hashes(table, IDENTITY["edits"]))


def _index(
    current: pa.Table, kind: Kind
) -> tuple[NDArray[np.bytes_], NDArray[np.int32], NDArray[np.int32], tuple[str, ...]]:
    files, rows = current[FILE].combine_chunks(), current[ROW].to_numpy()
    parts = [np.array(part, "S64") for (part,) in columns_in_parts(current, [KEY_COLUMNS[kind]])]
    keys, first = np.unique(np.concatenate([np.empty(0, "S64"), *parts]), return_index=True)
    return keys, files.indices.to_numpy()[first], rows[first].astype(np.int32), tuple(files.dictionary.to_pylist())


def _hashes(table: pa.Table, names: Sequence[str]) -> NDArray[np.uint64]:
    """What some columns say of each row, as sorted hashes."""
    rows = (row for parts in columns_in_parts(table, names) for row in zip(*parts, strict=True))
    return np.sort(np.fromiter((_hash(*row) for row in rows), np.uint64, len(table)))


def read_inversion(index: KeyIndex, key: str) -> dict[str, Any]:
    """One committed inversion, with its tensors' bytes; only that row is transferred.

    Raises:
        KeyError: the key is not in the index.
        RowError: artifact_unreadable.
    """
    uri, at = index.place_of(key)

    def read(file: BinaryIO) -> dict[str, Any] | None:
        with pq.ParquetFile(file, pre_buffer=True) as parquet:
            return _row(parquet, at) if at < parquet.metadata.num_rows else None

    try:
        row = storage.read_part(uri, read)
    except (storage.StorageError, pa.ArrowException, OSError) as error:
        raise RowError("artifact_unreadable", f"inversion {key[:12]}… in {uri}: {error}") from error
    if row is None or row["inversion_key"] != key:
        raise RowError("artifact_unreadable", f"inversion {key[:12]}…: no longer in {uri}")
    return row


def _row(parquet: pq.ParquetFile, at: int) -> dict[str, Any]:
    group = 0
    while at >= (count := parquet.metadata.row_group(group).num_rows):
        group, at = group + 1, at - count
    row: dict[str, Any] = parquet.read_row_group(group).slice(at, 1).to_pylist()[0]
    return row


def current_failures(output: str) -> list[dict[str, Any]]:
    """The latest failure of each image and edit that nothing later has made good.

    A later output of the same image, edit and strength ends an edit's failure. Anything later of the same
    image ends the image's own. `attempts` is what the row says, or the number of its rows if that is more.
    """
    table = read_rows(output, "failures", FAILURE_SCHEMA.names).drop_columns([FILE, ROW])
    rows = sorted(table.to_pylist(), key=_age)
    failed = [row for row in rows if row["code"] != RECOVERED]
    latest = {_slot(row): row for row in failed}
    seen = Counter(map(_slot, failed))
    made_good = _latest_successes(output, {row["image_id"] for row in failed})
    for row in rows:
        if row["edit_id"] is not None or row["code"] == RECOVERED:
            _keep_latest(made_good, (row["image_id"], None, None), row)
    return [
        {**row, "attempts": max(row["attempts"], seen[slot])}
        for slot, row in latest.items()
        if slot not in made_good or made_good[slot] <= _age(row)
    ]


_Slot = tuple[str, str | None, float | None]
_Age = tuple[int, datetime]


def _slot(row: Mapping[str, Any]) -> _Slot:
    return row["image_id"], row["edit_id"], row["strength"]


def _age(row: Mapping[str, Any]) -> _Age:
    return row["fence"] or 0, row["created_at"]


def _latest_successes(output: str, images: Collection[str]) -> dict[_Slot, _Age]:
    """When these images, and edits of them, last came out."""
    successes: dict[_Slot, _Age] = {}
    for row in _rows_of(images, output, "inversions", ["image_id", *AGE]):
        _keep_latest(successes, (row["image_id"], None, None), row)
    for row in _rows_of(images, output, "edits", ["image_id", "edit_id", "strength", *AGE]):
        _keep_latest(successes, _slot(row), row)
        _keep_latest(successes, (row["image_id"], None, None), row)
    return successes


def _rows_of(images: Collection[str], output: str, kind: Kind, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of a few among perhaps millions."""
    if not images:
        return []
    table = read_rows(output, kind, columns)
    rows: list[dict[str, Any]] = table.filter(pc.is_in(table["image_id"], pa.array(images, pa.string()))).to_pylist()
    return rows


def _keep_latest(ages: dict[_Slot, _Age], slot: _Slot, row: Mapping[str, Any]) -> None:
    if slot not in ages or ages[slot] < _age(row):
        ages[slot] = _age(row)


@dataclass(frozen=True, slots=True)
class Summary:
    """How far an output is: distinct inversions and edits, current failures by code, seconds of work on each.

    `escalated` is how many of the inversions took more than the job's own settings.
    """

    inversions: int
    edits: int
    failures: Mapping[str, int]
    inversion_seconds: float
    edit_seconds: float
    escalated: int = 0

    @property
    def seconds(self) -> float:
        return self.inversion_seconds + self.edit_seconds


def summary(output: str) -> Summary:
    """Count what an output folder holds."""
    inversions = current_rows(output, "inversions", "seconds", "escalated")
    edits = current_rows(output, "edits", "seconds")
    failures = Counter(row["code"] for row in current_failures(output))
    of_inversions, of_edits = (float(pc.sum(table["seconds"]).as_py() or 0.0) for table in (inversions, edits))
    escalated = len(inversions) - inversions["escalated"].null_count
    return Summary(len(inversions), len(edits), dict(failures), of_inversions, of_edits, escalated)


def picture_uris(output: str) -> list[str]:
    """URIs of all pictures that an output's edits table names, each once."""
    uris: list[str] = read_rows(output, "edits", {"image_uri"})["image_uri"].unique().to_pylist()
    return uris
