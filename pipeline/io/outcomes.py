"""What an output folder already holds: which keys are committed, what failed, and counts of both."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import RowError
from pipeline.io import storage
from pipeline.io.artifacts import FAILURE_SCHEMA, KEY_COLUMNS, RECOVERED, SCHEMAS, Kind
from pipeline.keys import artifact_row_key

_READERS: Final = 16
# What a row is of. Of several rows of one artifact or picture the newest says what is there: a picture of another
# prompt has replaced the one before it.
_IDENTITY: Final[Mapping[Kind, Sequence[str]]] = {
    "inversions": ("inversion_key",),
    "edits": ("image_id", "edit_id", "strength"),
}
_FILE: Final = "file"


@dataclass(frozen=True, eq=False)
class KeyIndex:
    """The committed keys of one table and the file that holds each.

    64 bytes a key, in two arrays that workers can share without copying.

    Attributes:
        keys: sorted, one of each, dtype S64.
        file_numbers: index into `files`, per key.
        files: URIs.
    """

    keys: NDArray[np.bytes_]
    file_numbers: NDArray[np.int32]
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._find(key) is not None

    def file_of(self, key: str) -> str:
        """URI of a file that holds the key.

        Raises:
            KeyError: it is not committed.
        """
        at = self._find(key)
        if at is None:
            raise KeyError(key)
        return self.files[int(self.file_numbers[at])]

    def _find(self, key: str) -> int | None:
        at = int(np.searchsorted(self.keys, np.bytes_(key.encode())))
        return at if at < len(self.keys) and self.keys[at] == key.encode() else None


def committed_inversions(output: str) -> KeyIndex:
    """Index of all inversions in an output folder."""
    return _index(output, "inversions")


def committed_artifact_rows(output: str) -> frozenset[str]:
    """`artifact_row_key` of every row among the inversions: whose artifacts they are."""
    table = _read_all(output, "inversions", {"inversion_key", "image_id"})
    return frozenset(map(artifact_row_key, table["inversion_key"].to_pylist(), table["image_id"].to_pylist()))


def committed_slots(output: str) -> tuple[set[str], Mapping[str, Mapping[tuple[str, float], str]]]:
    """What is there under the names that manifests use, whatever the bytes and settings were.

    Returns:
        The image ids that have an inversion, and by image id the edit ids and strengths that have a picture, with its
        prompt.
    """
    inverted = set(_read_all(output, "inversions", {"image_id"})["image_id"].to_pylist())
    edited: defaultdict[str, dict[tuple[str, float], str]] = defaultdict(dict)
    columns = (*_IDENTITY["edits"], "prompt")
    # The newest row of a picture is read last, and so is the one that stays.
    table = _read_all(output, "edits", {*columns, "created_at"}).sort_by("created_at")
    for image_id, edit_id, strength, prompt in zip(*(table[name].to_pylist() for name in columns), strict=True):
        edited[image_id][edit_id, strength] = prompt
    return inverted, edited


def committed_edits(output: str) -> KeyIndex:
    """Index of the edits whose pictures an output folder holds."""
    return _index(output, "edits")


def _index(output: str, kind: Kind) -> KeyIndex:
    table = _read_all(output, kind, {KEY_COLUMNS[kind], *_IDENTITY[kind], "created_at"})
    current = table.select([KEY_COLUMNS[kind], _FILE]).take(newest(table, kind, _IDENTITY[kind]))
    files = current[_FILE].combine_chunks()
    keys, first = np.unique(np.array(current[KEY_COLUMNS[kind]].to_pylist(), dtype="S64"), return_index=True)
    return KeyIndex(keys, files.indices.to_numpy()[first], tuple(files.dictionary.to_pylist()))


def newest(table: pa.Table, kind: Kind, of: Sequence[str]) -> NDArray[np.uint64]:
    """Numbers of the rows that are the newest for each value of some columns; the oldest of these rows first."""
    keys = [("created_at", "ascending"), (KEY_COLUMNS[kind], "ascending")]
    by_age = pc.sort_indices(table, sort_keys=keys).to_numpy()
    ages = table.select(of).append_column("age", pa.array(np.argsort(by_age)))
    latest: NDArray[np.uint64] = by_age[np.sort(ages.group_by(of).aggregate([("age", "max")])["age_max"].to_numpy())]
    return latest


def read_inversion(index: KeyIndex, key: str) -> dict[str, Any]:
    """One committed inversion, with its tensors' bytes; only that row is transferred.

    Raises:
        KeyError: the key is not in the index.
        RowError: artifact_unreadable.
    """
    uri = index.file_of(key)

    def read(file: BinaryIO) -> dict[str, Any] | None:
        with pq.ParquetFile(file) as parquet:
            keys = parquet.read(columns=["inversion_key"]).column(0).to_pylist()
            return _row(parquet, keys.index(key)) if key in keys else None

    try:
        row = storage.read_part(uri, read)
    except (storage.StorageError, pa.ArrowException, OSError) as error:
        raise RowError("artifact_unreadable", f"inversion {key[:12]}… in {uri}: {error}") from error
    if row is None:
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
    table = _read_all(output, "failures", FAILURE_SCHEMA.names).drop_columns(_FILE)
    rows = table.sort_by("created_at").to_pylist()
    failed = [row for row in rows if row["code"] != RECOVERED]
    latest = {_slot(row): row for row in failed}
    seen = Counter(map(_slot, failed))
    made_good = _latest_successes(output, {row["image_id"] for row in failed})
    for row in rows:
        if row["edit_id"] is not None or row["code"] == RECOVERED:
            _keep_latest(made_good, (row["image_id"], None, None), row["created_at"])
    return [
        {**row, "attempts": max(row["attempts"], seen[slot])}
        for slot, row in latest.items()
        if slot not in made_good or made_good[slot] <= row["created_at"]
    ]


_Slot = tuple[str, str | None, float | None]


def _slot(row: Mapping[str, Any]) -> _Slot:
    return row["image_id"], row["edit_id"], row["strength"]


def _latest_successes(output: str, images: Collection[str]) -> dict[_Slot, Any]:
    """When these images, and edits of them, last came out."""
    successes: dict[_Slot, Any] = {}
    for row in _rows_of(images, output, "inversions", ["image_id", "created_at"]):
        _keep_latest(successes, (row["image_id"], None, None), row["created_at"])
    for row in _rows_of(images, output, "edits", ["image_id", "edit_id", "strength", "created_at"]):
        _keep_latest(successes, _slot(row), row["created_at"])
        _keep_latest(successes, (row["image_id"], None, None), row["created_at"])
    return successes


def _rows_of(images: Collection[str], output: str, kind: Kind, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of a few among perhaps millions."""
    if not images:
        return []
    table = _read_all(output, kind, columns)
    rows: list[dict[str, Any]] = table.filter(pc.is_in(table["image_id"], pa.array(images, pa.string()))).to_pylist()
    return rows


def _keep_latest(times: dict[_Slot, Any], slot: _Slot, time: Any) -> None:
    if slot not in times or times[slot] < time:
        times[slot] = time


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
    inversions, edits = _current(output, "inversions", "escalated"), _current(output, "edits")
    failures = Counter(row["code"] for row in current_failures(output))
    of_inversions, of_edits = (float(pc.sum(table["seconds"]).as_py() or 0.0) for table in (inversions, edits))
    escalated = len(inversions) - inversions["escalated"].null_count
    return Summary(len(inversions), len(edits), dict(failures), of_inversions, of_edits, escalated)


def picture_uris(output: str) -> list[str]:
    """URIs of all pictures that an output's edits table names, each once."""
    uris: list[str] = _read_all(output, "edits", {"image_uri"})["image_uri"].unique().to_pylist()
    return uris


def _current(output: str, kind: Kind, *columns: str) -> pa.Table:
    """A row for each artifact or picture that is there, with the seconds that it took."""
    table = _read_all(output, kind, {KEY_COLUMNS[kind], *_IDENTITY[kind], "seconds", "created_at", *columns})
    return table.take(newest(table, kind, _IDENTITY[kind]))


def _read_all(output: str, kind: Kind, columns: Collection[str]) -> pa.Table:
    """Some columns of all rows of a table, and the URI of each row's file."""
    schema = pa.schema([field for field in SCHEMAS[kind] if field.name in columns])
    files = storage.list_files(storage.join(output, kind), ".parquet")
    with ThreadPoolExecutor(_READERS) as pool:
        tables = list(pool.map(partial(_read_columns, kind=kind, schema=schema), files))
    numbers = np.repeat(np.arange(len(files), dtype=np.int32), [len(table) for table in tables])
    uris = pa.DictionaryArray.from_arrays(numbers, pa.array(files, pa.string()))
    return pa.concat_tables([schema.empty_table(), *tables]).append_column(_FILE, uris)


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
