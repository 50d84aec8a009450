from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.io import storage
from pipeline.io.artifacts import EDIT_SCHEMA, FAILURE_SCHEMA, INVERSION_SCHEMA, pack, tensor_index, unpack, write_rows
from tests.io.rows import edit_row, failure_row, inversion_row


def test_tensors_come_back_with_dtype_and_shape() -> None:
    """Every dtype that methods store survives, as do scalars, empty tensors and views of a batch."""
    batch = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    tensors = {
        "float": batch[1],
        "same": batch[1],
        "half": batch[0].half(),
        "brain": batch[2].bfloat16(),
        "turned": batch[0].T,
        "whole": torch.arange(6).reshape(2, 3),
        "scalar": torch.tensor(1.5, requires_grad=True),
        "none": torch.zeros(0, 7),
        "flag": torch.tensor([True, False]),
    }
    back = unpack(pack(tensors))
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


def test_equal_tensors_give_equal_bytes() -> None:
    """Neither the order of names nor memory layout enters the payload."""
    a, b = torch.ones(2, 3), torch.arange(4.0)
    assert pack({"a": a, "b": b}) == pack({"b": b.clone(), "a": torch.ones(3, 2).T})


def test_the_index_says_what_a_payload_holds() -> None:
    """Names, dtypes and shapes can be read without opening the payload."""
    assert json.loads(tensor_index({"z": torch.zeros(2, 3, dtype=torch.bfloat16)})) == {
        "z": {"dtype": "bfloat16", "shape": [2, 3]}
    }


@pytest.mark.parametrize(
    ("kind", "make", "schema"),
    [
        ("inversions", inversion_row, INVERSION_SCHEMA),
        ("edits", edit_row, EDIT_SCHEMA),
        ("failures", failure_row, FAILURE_SCHEMA),
    ],
)
def test_rows_are_read_back(tmp_path: Path, kind: Any, make: Any, schema: pa.Schema) -> None:
    """A file has its table's schema, then the user's columns, and the rows' values."""
    rows = [{**make("a"), "carried": {"label": 3, "brand": None}}, {**make("b"), "carried": {"label": 4}}]
    uri = write_rows(str(tmp_path), kind, rows)
    assert uri is not None
    table = pq.read_table(uri)
    assert table.schema.names == [*schema.names, "brand", "label"]
    assert table.select(schema.names).schema.equals(schema)
    assert table["label"].to_pylist() == [3, 4]
    assert table.select(schema.names).to_pylist() == [{n: row.get(n) for n in schema.names} for row in rows]
    assert pq.ParquetFile(uri).metadata.row_group(0).column(0).compression == "ZSTD"


def test_files_are_named_by_their_keys(tmp_path: Path) -> None:
    """The same rows in any order overwrite one file; other rows get another."""
    first = write_rows(str(tmp_path), "edits", [edit_row("a"), edit_row("b")])
    assert first == write_rows(str(tmp_path), "edits", [edit_row("b", seconds=9.0), edit_row("a")])
    assert first != write_rows(str(tmp_path), "edits", [edit_row("a")])
    assert first is not None
    assert len(Path(first).stem) == 32
    assert len(storage.list_files(str(tmp_path))) == 2


def test_failures_are_named_by_what_failed(tmp_path: Path) -> None:
    """The same failure again is the same file; the next attempt at it is another."""
    later = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
    first = write_rows(str(tmp_path), "failures", [failure_row("a")])
    assert first == write_rows(str(tmp_path), "failures", [failure_row("a", created_at=later)])
    assert first != write_rows(str(tmp_path), "failures", [failure_row("a", attempts=2)])


def test_no_rows_write_no_file(tmp_path: Path) -> None:
    """An empty batch leaves nothing behind."""
    assert write_rows(str(tmp_path), "edits", []) is None
    assert list(tmp_path.iterdir()) == []


def test_names_of_ours_are_kept_apart(tmp_path: Path) -> None:
    """A user's column that is called as one of ours is prefixed, and nothing is lost."""
    carried = {"prompt": "theirs", "carried_prompt": "also", "width": 3}
    uri = write_rows(str(tmp_path), "edits", [{**edit_row("a"), "carried": carried}])
    row = pq.read_table(uri).to_pylist()[0]
    assert row["prompt"] == edit_row("a")["prompt"]
    assert sorted(str(v) for n, v in row.items() if n.startswith("carried_")) == ["3", "also", "theirs"]


def test_files_of_one_table_can_be_read_together(tmp_path: Path) -> None:
    """A column that is empty in one batch does not spoil the dataset for plain readers."""
    for i, label in enumerate([None, 3, None]):
        write_rows(str(tmp_path), "edits", [{**edit_row(str(i)), "carried": {"label": label}}])
    labels = ds.dataset(tmp_path / "edits", format="parquet").to_table()["label"].to_pylist()
    assert sorted(str(label) for label in labels) == ["3", "None", "None"]


def test_rows_are_complete(tmp_path: Path) -> None:
    """A missing or unknown column is a mistake of ours and is found before anything is written."""
    with pytest.raises(ValueError, match="without a value: image_id, sha256"):
        write_rows(str(tmp_path), "edits", [edit_row("a", image_id=None, sha256=None)])
    with pytest.raises(ValueError, match="unknown columns colour"):
        write_rows(str(tmp_path), "edits", [edit_row("a", colour="red")])
    assert storage.list_files(str(tmp_path)) == []
