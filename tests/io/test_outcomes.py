from __future__ import annotations

import datetime as dt
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import RowError
from pipeline.io import storage
from pipeline.io.artifacts import write_rows
from pipeline.io.outcomes import (
    Summary,
    committed_edits,
    committed_inversions,
    committed_slots,
    current_failures,
    read_inversion,
    summary,
)
from pipeline.io.storage import StorageError
from tests.io.rows import NOON, edit_row, failure_row, inversion_row, key_of


@pytest.fixture(params=["local", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An output folder on each storage."""
    return str(request.getfixturevalue("s3")) if request.param == "s3" else str(tmp_path / "out")


def _at(minutes: int) -> dt.datetime:
    return NOON + dt.timedelta(minutes=minutes)


def test_the_index_has_exactly_the_committed_keys(output: str) -> None:
    """Keys of all files are found, each with a file that holds it, and no others."""
    names = [f"image-{i}" for i in range(40)]
    files = {}
    for start in range(0, 40, 8):
        uri = write_rows(output, "inversions", [inversion_row(n) for n in names[start : start + 8]])
        files.update(dict.fromkeys(names[start : start + 8], uri))
    index = committed_inversions(output)
    assert len(index) == 40
    for name in names:
        assert key_of(name) in index
        assert index.place_of(key_of(name))[0] == files[name]
    for absent in (key_of("other"), "0" * 64, "f" * 64, "", key_of(names[0])[:-1]):
        assert absent not in index
    assert None not in index
    with pytest.raises(KeyError):
        index.place_of(key_of("other"))


def test_an_empty_output_has_no_keys(output: str) -> None:
    """A first run's index answers, and is empty."""
    index = committed_edits(output)
    assert len(index) == 0
    assert key_of("a") not in index


def test_a_key_committed_twice_is_one(output: str) -> None:
    """Readers take one row per key."""
    write_rows(output, "edits", [edit_row("a"), edit_row("b")])
    write_rows(output, "edits", [edit_row("a")])
    assert len(committed_edits(output)) == 2
    assert summary(output).edits == 2


def test_the_newest_edit_of_a_picture_counts(output: str) -> None:
    """An edit that another has replaced since is not there, whichever file is listed first."""
    for minutes, name in ((0, "first"), (5, "second"), (10, "third"), (2, "other")):
        columns = {"edit_key": key_of(name), "seconds": 1.0 + minutes, "created_at": _at(minutes)}
        write_rows(output, "edits", [edit_row("b" if name == "other" else "a", **columns)])
    index = committed_edits(output)
    assert [name for name in ("first", "second", "third", "other") if key_of(name) in index] == ["third", "other"]
    assert storage.exists(index.place_of(key_of("third"))[0])
    assert (summary(output).edits, summary(output).seconds) == (2, 14.0)
    write_rows(output, "edits", [edit_row("a", edit_key=key_of("first"), created_at=_at(15))])
    assert key_of("first") in committed_edits(output)
    assert key_of("third") not in committed_edits(output)


def test_a_withdrawn_edit_is_not_there(output: str) -> None:
    """From its withdrawal until a later row of its picture: it is not committed, and nothing is in its place."""
    place = ("a", "blue", 1.0)
    withdrawal = dict(zip(("image_id", "edit_id", "strength"), place, strict=True))
    write_rows(output, "edits", [edit_row("a"), edit_row("b")])
    assert committed_edits(output).in_place_of(key_of("other"), *place)
    assert not committed_edits(output).in_place_of(key_of("edit of a"), *place)
    write_rows(output, "withdrawals", [{**withdrawal, "created_at": _at(5)}])
    index = committed_edits(output)
    assert (len(index), summary(output).edits, set(committed_slots(output)[1])) == (1, 1, {"b"})
    assert key_of("edit of a") not in index
    assert not index.in_place_of(key_of("other"), *place)
    write_rows(output, "edits", [edit_row("a", edit_key=key_of("other"), created_at=_at(6))])
    assert key_of("other") in committed_edits(output)
    assert summary(output).edits == 2


def test_an_index_travels_without_copies(tmp_path: Path) -> None:
    """Pickled with its arrays out of band, as Ray's object store does, it works on read-only memory."""
    write_rows(str(tmp_path), "edits", [edit_row("a"), edit_row("b")])
    index = committed_edits(str(tmp_path))
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(index, protocol=5, buffer_callback=buffers.append)
    assert len(buffers) == 4
    again = pickle.loads(data, buffers=[bytes(b) for b in buffers])
    assert key_of("edit of a") in again
    assert key_of("a") not in again
    assert index.keys.dtype == np.dtype("S64")


def test_half_written_files_are_not_taken_for_results(tmp_path: Path) -> None:
    """Temporary files do not count; a damaged table is named instead of ignored."""
    write_rows(str(tmp_path), "edits", [edit_row("a")])
    (tmp_path / "edits" / ".0123.tmp").write_bytes(b"PAR1")
    assert len(committed_edits(str(tmp_path))) == 1
    (tmp_path / "edits" / "damaged.parquet").write_bytes(b"PAR1")
    with pytest.raises(StorageError, match=r"damaged\.parquet: not a readable edits file"):
        committed_edits(str(tmp_path))


def test_an_inversion_is_read_by_its_key(output: str) -> None:
    """The row comes back with its tensors and the user's columns, from wherever it stands in its file."""
    write_rows(output, "inversions", [{**inversion_row(f"{i}"), "carried": {"label": i}} for i in range(5)])
    index = committed_inversions(output)
    for i in range(5):
        row = read_inversion(index, key_of(f"{i}"))
        assert row == {**inversion_row(f"{i}"), "label": i}


def test_only_the_row_that_is_read_is_transferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file with many inversions a reader fetches one row's tensors."""
    rng = np.random.default_rng(0)
    rows = [inversion_row(f"{i}", tensors=rng.bytes(1_000_000)) for i in range(8)]
    uri = write_rows(str(tmp_path), "inversions", rows)
    assert uri is not None
    index, transferred = committed_inversions(str(tmp_path)), 0

    class Counting:
        def __init__(self, file: Any) -> None:
            self._file = file

        def read(self, size: int = -1) -> bytes:
            nonlocal transferred
            data = self._file.read(size)
            transferred += len(data)
            return bytes(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    read_part = storage.read_part
    monkeypatch.setattr(storage, "read_part", lambda uri, read: read_part(uri, lambda file: read(Counting(file))))
    assert read_inversion(index, key_of("5"))["tensors"] == rows[5]["tensors"]
    assert transferred < 1_500_000


def test_a_lost_or_damaged_inversion_costs_its_row(tmp_path: Path) -> None:
    """A file that is gone, damaged or of other content since is a row's failure, and retryable."""
    uri = write_rows(str(tmp_path), "inversions", [inversion_row("a")])
    assert uri is not None
    index = committed_inversions(str(tmp_path))
    other = Path(write_rows(str(tmp_path / "x"), "inversions", [inversion_row("b")]) or "").read_bytes()
    for content in (other, b"PAR1", None):
        if content is None:
            Path(uri).unlink()
        else:
            Path(uri).write_bytes(content)
        with pytest.raises(RowError) as raised:
            read_inversion(index, key_of("a"))
        assert raised.value.code == "artifact_unreadable"
        assert raised.value.retryable


def test_the_latest_failure_counts(output: str) -> None:
    """Of several failures of one image or edit the last is current, with all attempts."""
    edit = {"edit_id": "blue", "strength": 0.5}
    write_rows(output, "failures", [failure_row("a"), failure_row("b", **edit)])
    write_rows(output, "failures", [failure_row("a", code="storage_unavailable", created_at=_at(5), attempts=2)])
    write_rows(output, "failures", [failure_row("b", **edit, message="again", created_at=_at(5))])
    current = {row["image_id"]: row for row in current_failures(output)}
    assert current["a"]["code"] == "storage_unavailable"
    assert current["a"]["attempts"] == 2
    assert current["b"]["message"] == "again"
    assert current["b"]["attempts"] == 2
    assert len(current) == 2


def test_a_later_success_ends_a_failure(output: str) -> None:
    """A failure counts until the same edit, or anything of the same image, came out later."""
    edit = {"edit_id": "blue", "strength": 1.0}
    write_rows(output, "failures", [failure_row("a"), failure_row("b", **edit), failure_row("c", **edit)])
    write_rows(output, "failures", [failure_row("d"), failure_row("e"), failure_row("f", **edit)])
    write_rows(output, "edits", [edit_row("a", created_at=_at(5)), edit_row("b", created_at=_at(5))])
    write_rows(output, "edits", [edit_row("c", strength=0.5, created_at=_at(5))])
    write_rows(output, "inversions", [inversion_row("d", created_at=_at(5))])
    write_rows(output, "edits", [edit_row("e", created_at=_at(-5)), edit_row("f", created_at=_at(-5))])
    assert {row["image_id"] for row in current_failures(output)} == {"c", "e", "f"}


def test_a_recovery_ends_the_failure_of_its_image(tmp_path: Path) -> None:
    """Nothing else need have come of the image; a failure after it counts again."""
    write_rows(str(tmp_path), "failures", [failure_row("a"), failure_row("b")])
    write_rows(str(tmp_path), "failures", [failure_row("a", code="recovered", created_at=_at(5))])
    assert [row["image_id"] for row in current_failures(str(tmp_path))] == ["b"]
    write_rows(str(tmp_path), "failures", [failure_row("a", message="gone again", created_at=_at(10))])
    assert {row["image_id"]: row["attempts"] for row in current_failures(str(tmp_path))} == {"a": 2, "b": 1}


def test_a_later_failure_of_an_edit_ends_that_of_its_image(tmp_path: Path) -> None:
    """An image whose edit was tried had been fetched and inverted by then."""
    write_rows(str(tmp_path), "failures", [failure_row("a")])
    write_rows(str(tmp_path), "failures", [failure_row("a", edit_id="blue", strength=1.0, created_at=_at(5))])
    assert [row["edit_id"] for row in current_failures(str(tmp_path))] == ["blue"]


def test_the_summary_counts(output: str) -> None:
    """Distinct inversions and edits, failures by code, and seconds of each key once."""
    assert summary(output) == Summary(0, 0, {}, 0.0, 0.0)
    write_rows(output, "inversions", [inversion_row("a"), inversion_row("b")])
    write_rows(output, "inversions", [inversion_row("b", image_id="c")])
    write_rows(output, "edits", [edit_row("a", seconds=None), edit_row("b")])
    write_rows(output, "failures", [failure_row("x"), failure_row("y"), failure_row("z", code="internal")])
    assert summary(output) == Summary(2, 2, {"image_missing": 2, "internal": 1}, 4.0, 0.5)
