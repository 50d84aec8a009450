from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pipeline.io import storage
from pipeline.io.artifacts import EDIT_SCHEMA, FAILURE_SCHEMA, INVERSION_SCHEMA, write_rows
from pipeline.io.reuse import checked_again, inverted_images
from tests.io.rows import edit_row, failure_row, inversion_row


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


def test_edits_find_a_users_columns_under_their_own_names(tmp_path: Path) -> None:
    """`{model}` means the product's model in `edit` as in `run`, though the artifact table has a model of its own."""
    carried = {"model": "X100", "width": 3, "carried_on": "ship"}
    row = inversion_row("a", settings='{"guidance_scale":7.5}')
    write_rows(str(tmp_path), "inversions", [{**row, "carried": carried}])
    [found] = inverted_images(str(tmp_path), row["model_fingerprint"]).to_pylist()
    assert {name: found[name] for name in carried} == carried
    assert found["fitted_scale"] == 7.5


@pytest.mark.parametrize(
    "settings", ["{", "[]", "{}", '{"guidance_scale": "high"}', '{"guidance_scale": 1' + "0" * 400 + "}"]
)
def test_settings_that_cannot_be_read_wait_for_their_rows_turn(tmp_path: Path, settings: str) -> None:
    """A plan goes on without the guidance that they might name: reading the artifact tells what is wrong with it."""
    write_rows(str(tmp_path), "inversions", [inversion_row("a", settings=settings)])
    [found] = inverted_images(str(tmp_path), "f" * 64).to_pylist()
    assert found["fitted_scale"] is None


@pytest.mark.parametrize(
    "theirs",
    [{"width": pa.array(["wide"])}, {"image_uri": None}, {"artifact_version": pa.array(["v2"])}],
    ids=["wide", "without image_uri", "version as text"],
)
def test_a_file_of_other_columns_is_named(tmp_path: Path, theirs: dict[str, pa.Array | None]) -> None:
    """One line says which file is none of ours."""
    uri = write_rows(str(tmp_path), "inversions", [inversion_row("a")])
    assert uri is not None
    columns = dict(zip(INVERSION_SCHEMA.names, pq.read_table(uri).columns, strict=True)) | theirs
    pq.write_table(pa.table({name: values for name, values in columns.items() if values is not None}), uri)
    with pytest.raises(storage.StorageError, match=f"^{uri}: not a readable inversions file") as caught:
        inverted_images(str(tmp_path), "f" * 64)
    assert len(str(caught.value).splitlines()) == 1


def test_artifacts_of_before_their_version_had_a_column_are_read(tmp_path: Path) -> None:
    """Beside those that have it."""
    for name in ("a", "b"):
        uri = write_rows(str(tmp_path), "inversions", [inversion_row(name)])
    pq.write_table(pq.read_table(uri).drop_columns(["artifact_version"]), uri)
    assert sorted(inverted_images(str(tmp_path), "f" * 64)["image_id"].to_pylist()) == ["a", "b"]


def test_artifacts_are_held_to_what_manifests_are(tmp_path: Path) -> None:
    """Whoever wrote an output: ids that climb, and originals that the job may not read, cost their image."""
    rows = [inversion_row(name) for name in ("a", "b", "c", "d")]
    rows[1]["image_id"] = "../../b"
    rows[2]["image_uri"], rows[3]["image_uri"] = "http://169.254.169.254/c.png", "/etc/passwd"
    write_rows(str(tmp_path), "inversions", rows)
    images = inverted_images(str(tmp_path), rows[0]["model_fingerprint"])
    assert sorted(checked_again(images, "out", []).table["image_id"].to_pylist()) == ["a", "d"]
    manifest = checked_again(images, "out", [rows[0]["image_uri"].rpartition("/")[0]])
    assert manifest.table["image_id"].to_pylist() == ["a"]
    assert sorted(str(refusal.row_id) for refusal in manifest.refusals) == ["../../b", "c", "d"]


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
