"""Manifests made to break their reader: what is wrong costs its row or is one line, and memory stays bounded."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def test_repeated_rows_are_counted_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A footer says how many values its file stands for, a few bytes or not."""
    monkeypatch.setattr(bounded_parquet, "_MOST_VALUES", 1999)
    with pytest.raises(JobError, match="got 2000 values"):
        read_images(_parquet(tmp_path, {}, ["a"] * 1000))


def _parquet(folder: Path, columns: Mapping[str, Any], ids: list[str] | None = None) -> str:
    ids = ids or ["a", "b"]
    table = pa.table({"image_id": pa.array(ids), "image_uri": pa.array(["a.png"] * len(ids)), **columns})
    pq.write_table(table, folder / "images.parquet", store_schema=False, compression="zstd")
    return str(folder / "images.parquet")
