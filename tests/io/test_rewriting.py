"""Tables in fewer files, and without some of their rows."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.io import artifacts, rewriting, storage
from pipeline.io.artifacts import write_rows
from pipeline.io.lease import Fence
from pipeline.io.outcomes import committed_inversions, read_inversion
from pipeline.io.rewriting import drop_rows, merge_files, read_index
from pipeline.io.rows_read import read_rows
from tests.io.rows import edit_row, inversion_row, key_of


@pytest.fixture(params=["local", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An output folder on each storage."""
    return str(request.getfixturevalue("s3")) if request.param == "s3" else str(tmp_path / "out")


def ids(output: str) -> Counter[str]:
    """How often the edit of each image is there."""
    return Counter(read_rows(output, "edits", {"image_id"})["image_id"].to_pylist())


def test_files_of_the_same_columns_become_one(output: str) -> None:
    """Users' columns stay as they are; what is there twice stays once."""
    for names in ("a", "b", "bc", "def"):
        write_rows(output, "edits", [edit_row(name) for name in names])
    for name in "xy":
        write_rows(output, "edits", [edit_row(name, carried={"label": 7})])
    assert merge_files(Fence(output, 1), "edits") == (6, 2)
    assert ids(output) == Counter("abcdefxy")
    assert merge_files(Fence(output, 1), "edits") == (2, 2)
    assert read_index(output, "edits").once().all()


def test_inversions_are_read_back_alone(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups of a merged file hold only so many bytes of tensors, however many rows that is."""
    monkeypatch.setattr(artifacts, "_GROUP_BYTES", 60)  # of tensors of 12 bytes, and where each begins
    for names in ("ab", "cd", "e", "f", "ghij"):
        write_rows(output, "inversions", [inversion_row(name) for name in names])
    assert merge_files(Fence(output, 1), "inversions") == (5, 1)
    index = committed_inversions(output)
    for name in "abcdefghij":
        assert read_inversion(index, key_of(name))["tensors"] == f"tensors of {name}".encode()
    (uri,) = storage.list_files(f"{output}/inversions", ".parquet")
    metadata = storage.read_part(uri, lambda file: pq.ParquetFile(file).metadata)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [3, 3, 3, 1]


def test_large_files_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read again only where one of their rows is in a newer file, too."""
    output = str(tmp_path)
    large = write_rows(output, "edits", [edit_row(str(i)) for i in range(100)])
    small = write_rows(output, "edits", [edit_row("0")])
    assert large is not None
    assert small is not None
    monkeypatch.setattr(rewriting, "_MOST_BYTES", 2 * Path(small).stat().st_size + 2)
    assert merge_files(Fence(output, 1), "edits") == (2, 1)
    assert Path(large).exists()


def test_a_reader_finds_each_row_while_files_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is gone when it is to be read is looked for under its new name."""
    output = str(tmp_path)
    for name in "ab":
        write_rows(output, "edits", [edit_row(name)])
    list_files, listed = storage.list_files, []

    def listing(folder: str, suffix: str = "") -> list[str]:
        files = list_files(folder, suffix)
        if not listed:
            listed.append(files)
            merge_files(Fence(output, 1), "edits")
        return files

    monkeypatch.setattr(storage, "list_files", listing)
    assert ids(output) == Counter("ab")


@given(st.lists(st.sets(st.sampled_from("abcdef"), min_size=1), max_size=6), st.sets(st.sampled_from("abcdef")))
@example([{"a", "b", "c"}, {"a", "c"}], {"b"})
@example([{"a", "b"}, {"a"}, {"c"}, {"c", "d"}], {"b", "d"})
@settings(max_examples=15, deadline=None)
def test_no_row_is_lost_or_doubled(files: list[set[str]], unwanted: set[str]) -> None:
    """However rows lie in files, merging leaves each once, and dropping leaves those that are to stay."""
    with tempfile.TemporaryDirectory() as output:
        for names in files:
            write_rows(output, "edits", [edit_row(name) for name in sorted(names)])
        index = read_index(output, "edits", ("image_id",))
        stay = index.chosen(at for at, name in enumerate(index.column("image_id")) if name not in unwanted)
        drop_rows(Fence(output, 1), index, stay & index.once())
        left = set[str]().union(*files) - unwanted
        assert ids(output) == Counter(left)
        for names in files:  # as after a kill
            write_rows(output, "edits", [edit_row(name) for name in sorted(names)])
        merge_files(Fence(output, 1), "edits")
        assert ids(output) == Counter(set[str]().union(*files))
