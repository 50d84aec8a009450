"""Manifests made to break their reader: what is wrong costs its row or is one line, and memory stays bounded."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import JobError
from pipeline.io import bounded_parquet
from pipeline.io.manifest import read_images, read_prompts

GOOD = '{"image_id": "good", "image_uri": "a.png", "x": 1}'
NINES = "9" * 4000


@pytest.mark.parametrize(
    "line",
    [
        '{"image_id": "a", "image_uri": "a.png", "x": "' + "x" * 10_000_000 + '"}',
        "[" * 10_000_000,
        "\0\0\0",
        '{"image_id": "a\\u0000", "image_uri": "a.png"}',
        '{"image_id": "a", "image_uri": "a\\u0000.png"}',
        '{"image_id": [1], "image_uri": {"a": 1}}',
        '{"image_id": true, "image_uri": "a.png"}',
        '{"image_id": 1e400, "image_uri": "a.png"}',
        '{"image_id": ' + NINES + ', "image_uri": "a.png"}',
        '{"image_id": "a", "image_uri": "a.png", "x": ' + "9" * 5000 + "}",
        '{"image_id": "a", "image_uri": "a.png", "x": ' + "[" * 900 + "]" * 900 + "}",
        '{"image_id": "a", "image_uri": "a.png", "x": "\\ud800"}',
    ],
    ids=lambda line: line[:60],
)
def test_a_hostile_line_costs_itself(tmp_path: Path, line: str) -> None:
    """Cells of megabytes, NUL, other types, numbers of thousands of digits, nesting: the row is refused in one line."""
    (tmp_path / "images.jsonl").write_text(f"{line}\n{GOOD}\n")
    manifest = read_images(str(tmp_path / "images.jsonl"))
    assert manifest.table["image_id"].to_pylist() == ["good"]
    [refusal] = manifest.refusals
    assert len(str(refusal).splitlines()) == 1
    assert len(str(refusal)) < 1000


@pytest.mark.parametrize(
    "values",
    [
        '"strength": 1e400',
        f'"strength": {NINES}',
        '"strength": NaN',
        f'"seed": {NINES}',
        '"strength": ' + "[" * 500 + "]" * 500,
        '"where": {"a": {"b": 1}}',
        '"word_weights": {"p": 1e308}',
        '"guidance_scale": -1e-300',
    ],
    ids=lambda values: values[:40],
)
def test_hostile_numbers_are_refused(tmp_path: Path, values: str) -> None:
    """Numbers that are none, or of no size that could be meant, cost their prompt."""
    (tmp_path / "p.jsonl").write_text('{"edit_id": "e", "prompt": "p", ' + values + "}\n")
    [refusal] = read_prompts(str(tmp_path / "p.jsonl")).refusals
    assert len(str(refusal).splitlines()) == 1
    assert len(str(refusal)) < 1000


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("strength: 0x" + "f" * 9000, "40 digits"),
        ("strength: !!int ''", "not YAML"),
        ("strength: !!timestamp x", "not YAML"),
        ("strength: .nan", "strength"),
        ("where: &w {a: *w}", "refers to itself"),
    ],
)
def test_hostile_yaml_costs_its_row(tmp_path: Path, row: str, reason: str) -> None:
    """Whatever PyYAML makes of a value, the next row is read."""
    (tmp_path / "p.yaml").write_text(f"- {{edit_id: a, prompt: p, {row}}}\n- {{edit_id: b, prompt: p}}\n")
    manifest = read_prompts(str(tmp_path / "p.yaml"))
    assert [r.edit_id for r in manifest.rows] == ["b"]
    assert reason in manifest.refusals[0].reason


def test_merged_keys_do_not_expand(tmp_path: Path) -> None:
    """Nine merges of nine merges, nine levels deep, would be 387 million keys."""
    levels = [f"- &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    (tmp_path / "p.yaml").write_text("\n".join(["- &a {k: v}", *levels]))
    assert "with aliases expanded" in read_prompts(str(tmp_path / "p.yaml")).refusals[-1].reason


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("images.csv", b"image_id,image_uri," + b",".join(b"c%d" % i for i in range(5000)) + b"\n"),
        ("images.csv", b'image_id,image_uri\na,"b\n' + b"x,y\n" * 200_000),
        ("images.csv", b"image_id,image_uri,x\na,a.png," + b"x" * 1_000_000 + b"\n"),
        ("images.csv", "image_id,image_uri\na,a.png\n".encode("utf-16")),
        ("images.jsonl", b"".join(b'{"image_id":"%d","image_uri":"a","c%d":1}\n' % (i, i) for i in range(2000))),
    ],
    ids=["columns", "quotes", "cell", "utf-16", "columns of many rows"],
)
def test_hostile_files_stop_the_job_in_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    """Thousands of columns, a quote that never ends, another encoding."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(JobError) as raised:
        read_images(str(tmp_path / name))
    assert len(str(raised.value).splitlines()) == 1


def test_text_that_is_not_utf8_is_found_in_parquet(tmp_path: Path) -> None:
    """Parquet's writers may call any bytes text."""
    offsets = pa.py_buffer(np.array([0, 1, 2], np.int32).tobytes())
    bad = pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"a\xff"))
    with pytest.raises(JobError, match="UTF8"):
        read_images(_parquet(tmp_path, {"x": bad}))


def test_a_parquet_file_of_thousands_of_columns(tmp_path: Path) -> None:
    """Each would be carried to every row of every output."""
    with pytest.raises(JobError, match="at most 1000 columns; got 1202"):
        read_images(_parquet(tmp_path, {f"c{i}": pa.array([i, i]) for i in range(1200)}))


def test_repeated_text_is_counted_before_it_is_written_out(tmp_path: Path) -> None:
    """5 MB in which 900 kB of text stand in 100,000 rows would be 90 GB; nothing near that is allocated."""
    rows = 100_000
    note = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["x" * 900_000]))
    ids = [str(i) for i in range(rows)]
    uri = _parquet(tmp_path, {"note": note}, ids)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(JobError, match="column note: expected at most"):
        read_images(uri)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_repeated_text_is_counted_whatever_its_writer_calls_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: pa.DataType
) -> None:
    """Arrow's writers note their own types in a file, and its reader takes them up."""
    monkeypatch.setattr(bounded_parquet, "_MOST_BYTES", 1_000_000)
    note = pa.array(["x" * 1000] * 2000).cast(kind)
    with pytest.raises(JobError, match="column note: expected at most 1000000 bytes of text; got 2000000"):
        read_images(_parquet(tmp_path, {"note": note}, [str(i) for i in range(2000)], store_schema=True))


def test_bytes_of_fixed_length_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are written out in each row."""
    monkeypatch.setattr(bounded_parquet, "_MOST_BYTES", 1_000_000)
    note = pa.array([b"x" * 1000] * 2000, pa.binary(1000))
    with pytest.raises(JobError, match="bytes of fixed length; got 2000000"):
        read_images(_parquet(tmp_path, {"note": note}, [str(i) for i in range(2000)]))


_ONE: Final = pa.array(np.zeros(2_000_000, np.int8))


@pytest.mark.parametrize(
    "inside",
    [
        pa.DictionaryArray.from_arrays(pa.array(np.zeros(2_000, np.int32)), pa.array(["x" * 900_000])),
        _ONE,
        pa.StructArray.from_arrays([_ONE], ["x"]),
        pa.nulls(len(_ONE), pa.int8()),
    ],
    ids=["1.8 GB of text", "values", "structs", "nulls"],
)
def test_what_stands_in_lists_is_bounded(tmp_path: Path, inside: pa.Array, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some kilobytes stand for more than is allowed; they are refused, and this process allocates none of it."""
    monkeypatch.setattr(bounded_parquet, "_MOST_NESTED_VALUES", 1_000_000)
    monkeypatch.setattr(bounded_parquet, "_MOST_BYTES", 64 << 20)
    tags = pa.ListArray.from_arrays(pa.array([0, 1, len(inside)], pa.int32()), inside)
    uri = _parquet(tmp_path, {"tags": tags, "note": pa.array(["a", "b"])})
    assert Path(uri).stat().st_size < 50_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(JobError, match="columns tags: expected at most 1000000 values and 67108864 bytes"):
        read_images(uri)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_lists_and_structs_come_as_they_are(tmp_path: Path) -> None:
    """Among other columns, in their order, and whatever is missing in them."""
    columns = {
        "tags": pa.array([["a", None], None]),
        "note": pa.array(["x", "y"]),
        "size": pa.array([{"w": 1, "h": [1.5]}, {"w": None, "h": None}]),
        "by": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
    }
    table = read_images(_parquet(tmp_path, columns)).table
    assert table.column_names[-4:] == list(columns)
    assert [table[name].to_pylist() for name in columns] == [column.to_pylist() for column in columns.values()]


def test_a_column_that_is_named_like_a_part_of_another_is_refused(tmp_path: Path) -> None:
    """To ask for it by its name would be to ask for both."""
    columns = {"a": pa.array([{"b": [1]}] * 2), "a.b": pa.array(["x", "y"])}
    with pytest.raises(JobError, match=r"none like a part of another; got 'a\.b'"):
        read_images(_parquet(tmp_path, columns))


def test_repeated_rows_are_counted_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A footer says how many values its file stands for, a few bytes or not."""
    monkeypatch.setattr(bounded_parquet, "_MOST_VALUES", 1999)
    with pytest.raises(JobError, match="got 2000 values"):
        read_images(_parquet(tmp_path, {}, ["a"] * 1000))


def _parquet(folder: Path, columns: Mapping[str, Any], ids: list[str] | None = None, **options: Any) -> str:
    ids = ids or ["a", "b"]
    table = pa.table({"image_id": pa.array(ids), "image_uri": pa.array(["a.png"] * len(ids)), **columns})
    pq.write_table(table, folder / "images.parquet", **{"store_schema": False, "compression": "zstd", **options})
    return str(folder / "images.parquet")
