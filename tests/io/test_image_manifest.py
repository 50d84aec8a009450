from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import JobError
from pipeline.io import image_manifest, storage
from pipeline.io.manifest import ImageManifest, read_images, read_prompts
from pipeline.records import ImageRow

ROWS: list[dict[str, Any]] = [
    {"image_id": "001", "image_uri": "photos/a.png", "source_prompt": "a mug", "mask_uri": "m.png", "category": "mug"},
    {"image_id": "shop/2", "image_uri": "/abs/b.png", "source_prompt": None, "mask_uri": None, "category": None},
    {"image_id": "Ü-3", "image_uri": "s3://b/c.png", "source_prompt": 'x, "y"', "mask_uri": None, "category": "vase"},
]


def _write(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    path = folder / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name.endswith(".csv"):
        cells = [
            ["" if v is None else f'"{str(v).replace(chr(34), chr(34) * 2)}"' for v in row.values()] for row in rows
        ]
        path.write_text("\n".join(",".join(line) for line in [list(rows[0]), *cells]) + "\n", encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def _text(folder: Path, text: str, name: str = "images.csv") -> ImageManifest:
    path = folder / name
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return read_images(str(path))


def _reason(manifest: ImageManifest) -> str:
    assert len(manifest.refusals) == 1, manifest.refusals
    return str(manifest.refusals[0])


@pytest.mark.parametrize("name", ["images.csv", "images.jsonl", "images.ndjson", "images.parquet"])
def test_every_format_gives_the_same_table(tmp_path: Path, name: str) -> None:
    """Ids stay text, URIs become absolute, nulls stay null, and the user's columns are carried."""
    manifest = read_images(_write(tmp_path, name, ROWS))
    assert manifest.refusals == ()
    assert manifest.table.to_pylist() == [
        {**ROWS[0], "image_uri": f"{tmp_path}/photos/a.png", "mask_uri": f"{tmp_path}/m.png"},
        ROWS[1],
        ROWS[2],
    ]
    assert manifest.table.schema.types == [pa.string()] * 5
    assert ImageRow(**manifest.table.to_pylist()[0]).carried == {"category": "mug"}


def test_parquet_columns_keep_their_types(tmp_path: Path) -> None:
    """Carried columns of Parquet come out as they went in, also where rows between are refused."""
    table = pa.table(
        {
            "image_id": pa.array(["a", "../b", "c"]).dictionary_encode(),
            "image_uri": pa.array(["a.png", "b.png", "c.png"], pa.large_string()),
            "label": pa.array([1, 2, 3], pa.int16()),
            "when": pa.array(
                [dt.datetime(2026, 1, day, tzinfo=dt.UTC) for day in (1, 2, 3)], pa.timestamp("ns", "UTC")
            ),
            "boxes": pa.array([[1.5], [], None], pa.list_(pa.float32())),
        }
    )
    pq.write_table(table, tmp_path / "images.parquet")
    manifest = read_images(str(tmp_path / "images.parquet"))
    assert manifest.table.select(["label", "when", "boxes"]).equals(
        table.select(["label", "when", "boxes"]).take([0, 2])
    )
    assert [r.line for r in manifest.refusals] == [2]


def test_jsonl_columns_take_the_type_that_fits(tmp_path: Path) -> None:
    """Numbers stay numbers, a column of several types becomes text, an absent value is null."""
    values = [
        {"n": 1, "f": 1, "mixed": 1, "huge": 2**70},
        {"n": 2, "f": 1.5, "mixed": "x"},
        {"mixed": [1], "none": None},
    ]
    rows = [{"image_id": str(i), "image_uri": "a.png", **v} for i, v in enumerate(values)]
    table = read_images(_write(tmp_path, "images.jsonl", rows)).table
    assert table["n"].to_pylist() == [1, 2, None]
    assert table["f"].to_pylist() == [1.0, 1.5, None]
    assert table["mixed"].to_pylist() == ["1", "x", "[1]"]
    assert table["huge"].to_pylist() == [str(2**70), None, None]
    assert table["none"].to_pylist() == [None, None, None]


def test_a_column_without_values_exists(tmp_path: Path) -> None:
    """An empty CSV column is a column of nulls, which prompts may name."""
    assert _text(tmp_path, "image_id,image_uri,brand\na,a.png,\n").table["brand"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("identifier", "reason"),
    [
        ("../x", "segments"),
        ("a/../x", "segments"),
        ("/etc/x", "segments"),
        ("a//x", "segments"),
        ("a/", "segments"),
        (".", "segments"),
        ("a\\x", "backslashes"),
        ("a\x00x", "control"),
        ("a\nx", "control"),
        ("x" * 256, "255 bytes"),
        ("ü" * 128, "255 bytes"),
        ("ü" * 120 + "/" + "ü" * 120 + "/" + "ü" * 20, "512 bytes"),
        ("a\uff0f..\uff0fx", "look like a slash"),
        ("a\u2044x", "look like a slash"),
        ("a\u202egnp.x", "direction"),
        ("a/x.", "dot or space"),
        ("a /x", "dot or space"),
        ("a/nul", "device"),
        ("COM1.txt/x", "device"),
        ("x" * 513, "at most 512"),
        ("\ud800", "string"),
        ("", "at least 1"),
        (7, "string"),
        (None, "required"),
    ],
)
def test_ids_that_could_not_name_an_output(tmp_path: Path, identifier: Any, reason: str) -> None:
    """Ids that climb, are absolute, have empty segments or cannot be a file name are refused with their line."""
    rows = [ROWS[0], {"image_id": identifier, "image_uri": "a.png"}]
    manifest = read_images(_write(tmp_path, "images.jsonl", rows))
    text = _reason(manifest)
    assert text.startswith(f"{tmp_path}/images.jsonl:2: ")
    # json.loads itself finds half a surrogate pair.
    assert reason in text or identifier == "\ud800"
    assert manifest.table.num_rows == 1


def test_duplicate_ids(tmp_path: Path) -> None:
    """The first row keeps an id; later ones are refused and say where it stands."""
    manifest = _text(tmp_path, "image_id,image_uri\na,1.png\nb,2.png\na,3.png\n")
    assert manifest.table["image_uri"].to_pylist() == [f"{tmp_path}/1.png", f"{tmp_path}/2.png"]
    assert _reason(manifest).startswith(f"{tmp_path}/images.csv:4: image_id: expected unique ids; got 'a' again")
    assert _reason(manifest).endswith("images.csv:2")
    assert manifest.refusals[0].row_id == "a"


def test_twins_of_unicode_are_duplicates(tmp_path: Path) -> None:
    """Two spellings of one text, which some file systems take for one name, are one id; capitals are another."""
    manifest = _text(tmp_path, "image_id,image_uri\ncaf\u00e9,1.png\ncafe\u0301,2.png\nA,3.png\na,4.png\n")
    assert manifest.table["image_id"].to_pylist() == ["caf\u00e9", "A", "a"]
    assert "expected unique ids" in _reason(manifest)


def test_capitals_make_no_id_where_the_output_folds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `A` and `a` are one folder, the second row would overwrite what the first one made."""
    (tmp_path / "images.csv").write_text("image_id,image_uri\nA,1.png\na,2.png\n")
    (tmp_path / "prompts.csv").write_text("edit_id,prompt\nA,blue\na,red\n")
    images, prompts, output = (str(tmp_path / name) for name in ("images.csv", "prompts.csv", "out"))
    assert not read_images(images, output).refusals
    monkeypatch.setattr(storage, "folds_case", lambda folder: folder == output)
    assert [r.line for r in read_images(images, output).refusals] == [3]
    assert [r.line for r in read_prompts(prompts, output).refusals] == [3]


def test_an_operators_prefixes_narrow_a_manifest(tmp_path: Path) -> None:
    """Rows whose picture or mask is elsewhere are refused and say where they might be."""
    (tmp_path / "images.csv").write_text(
        "image_id,image_uri,mask_uri\na,in/a.png,in/m.png\nb,in/../b.png,\nc,in/c.png,/etc/passwd\n"
    )
    manifest = read_images(str(tmp_path / "images.csv"), allow=[f"file://{tmp_path}/in/"])
    assert manifest.table["image_id"].to_pylist() == ["a"]
    assert [(r.line, r.row_id) for r in manifest.refusals] == [(3, "b"), (4, "c")]
    assert all(f"below {tmp_path}/in" in r.reason for r in manifest.refusals)


def test_csv_lines_are_those_of_the_file(tmp_path: Path) -> None:
    """Quoted line breaks and blank lines are counted, a byte order mark is not text, and empty cells are null."""
    text = '\ufeffimage_id, image_uri ,note\r\na,a.png,"two\r\nlines"\r\n\r\n,b.png,x\r\nc,c.png\r\nd,d.png,\r\n'
    manifest = _text(tmp_path, text)
    assert manifest.table["image_id"].to_pylist() == ["a", "d"]
    assert manifest.table["note"].to_pylist() == ["two\r\nlines", None]
    assert [(r.line, r.reason) for r in manifest.refusals] == [
        (5, "image_id: required, and not given"),
        (6, "expected 3 cells, as in the header; got 2"),
    ]


def test_jsonl_lines(tmp_path: Path) -> None:
    """Each line stands for itself: what is no JSON object costs that line."""
    good = '{"image_id": "%s", "image_uri": "a.png"}'
    lines = [
        good % "a",
        "",
        "{oops",
        "[1]",
        '{"image_id": "n", "image_uri": "a", "x": NaN}',
        "[" * 20_000,
        good % "b\u2028c",
    ]
    manifest = _text(tmp_path, "\n".join(lines), "images.jsonl")
    assert manifest.table["image_id"].to_pylist() == ["a", "b\u2028c"]
    assert [r.line for r in manifest.refusals] == [3, 4, 5, 6]
    assert all("\n" not in r.reason for r in manifest.refusals)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("images.csv", b"id,uri\na,b\n"),
        ("images.csv", b"id,uri\n"),
        ("images.csv", b""),
        ("images.csv", b"image_id,image_uri,x,x\na,b,1,2\n"),
        ("images.csv", b'image_id,image_uri\na,"b\n'),
        ("images.csv", b"image_id,image_uri\na,\xff\n"),
        ("images.jsonl", b'{"id": 1}\n'),
        ("images.parquet", b"PAR1 not really"),
        ("images.parquet", b""),
        ("images.xlsx", b""),
        ("images.yaml", b"- image_id: a"),
    ],
)
def test_manifests_that_cannot_be_read(tmp_path: Path, name: str, content: bytes) -> None:
    """A file that is not what its name says, or lacks a required column, stops the job with one line."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(JobError) as raised:
        read_images(str(tmp_path / name))
    assert str(tmp_path / name) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_parquet_ids_are_strings(tmp_path: Path) -> None:
    """Numbers as ids would lose leading zeros, so the type is refused for the whole file."""
    with pytest.raises(JobError, match="column image_id: expected strings; got int64"):
        read_images(_write(tmp_path, "images.parquet", [{"image_id": 1, "image_uri": "a.png"}]))


@pytest.mark.parametrize("name", ["absent.csv", "absent.parquet", "absent", "absent*.csv"])
def test_absent_manifests(tmp_path: Path, name: str) -> None:
    """A manifest that is not there stops the job and is named."""
    with pytest.raises(JobError, match="absent"):
        read_images(str(tmp_path / name))


def test_a_folder_of_pictures_is_a_manifest(tmp_path: Path) -> None:
    """Ids are paths without suffixes; other files are left alone; two pictures of one name are one too many."""
    for name in ("shop/b.JPG", "shop/a.v2.png", "c.webp", "c.gif", "notes.txt", ".DS_Store", "shop/list.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    manifest = read_images(f"{tmp_path}/")
    assert manifest.table["image_id"].to_pylist() == ["c", "shop/a.v2", "shop/b"]
    assert manifest.table["image_uri"].to_pylist()[2] == f"{tmp_path}/shop/b.JPG"
    assert manifest.table.column_names == list(ImageRow.model_fields)
    assert "expected unique ids" in _reason(manifest)


def test_a_pattern_of_pictures_is_a_manifest(tmp_path: Path) -> None:
    """Ids start at the folder before the first wildcard."""
    for name in ("x/a.png", "x/y/b.png", "z/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert read_images(f"{tmp_path}/x/**/*.png").table["image_id"].to_pylist() == ["a", "y/b"]
    assert read_images(f"{tmp_path}/?/*.png").table["image_id"].to_pylist() == ["x/a", "z/c"]


@pytest.mark.parametrize("uri", ["", "/", "/**/*.png"])
def test_what_lies_below_the_output_is_not_input(tmp_path: Path, uri: str) -> None:
    """Pictures that a job published into its own folder of photographs are not taken for photographs."""
    for name in ("a.png", "out/images/a/blue/1.png", "outside/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = read_images(f"{tmp_path}{uri}", f"{tmp_path}/out").table["image_id"].to_pylist()
    assert sorted(found) == ["a", "outside/b"]
    with pytest.raises(JobError, match="outside the output; got none"):
        read_images(f"{tmp_path}{uri}", str(tmp_path))


def test_suffixes_may_be_in_capitals(tmp_path: Path) -> None:
    """Cameras and spreadsheets write IMG.CSV: it is a table as any other, alone and in a folder."""
    _text(tmp_path, "image_id,image_uri\na,a.png\n", "IMG.CSV")
    pq.write_table(pa.table({"image_id": ["b"], "image_uri": ["b.png"]}), tmp_path / "MORE.Parquet")
    assert read_images(f"{tmp_path}/IMG.CSV").table["image_id"].to_pylist() == ["a"]
    assert read_images(str(tmp_path)).table["image_id"].to_pylist() == ["a", "b"]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """A file name that is not UTF-8 costs that file, and can be reported."""
    (tmp_path / "good.png").write_bytes(b"")
    Path(str(tmp_path) + "/bad\udcff.png").write_bytes(b"")
    manifest = read_images(str(tmp_path))
    assert manifest.table["image_id"].to_pylist() == ["good"]
    assert manifest.refusals[0].row_id == "bad?"
    str(manifest.refusals[0]).encode()


def test_a_folder_of_tables_is_one_manifest(tmp_path: Path) -> None:
    """Parts of a table are read in order, ids are unique over all of them, columns are those of any part."""
    pq.write_table(pa.table({"image_id": ["a"], "image_uri": ["1.png"], "n": [1]}), tmp_path / "part-0.parquet")
    pq.write_table(pa.table({"image_id": ["a", "b"], "image_uri": ["2.png", "3.png"]}), tmp_path / "part-1.parquet")
    (tmp_path / "_SUCCESS").write_bytes(b"")
    for uri in (str(tmp_path), f"{tmp_path}/part-*.parquet"):
        manifest = read_images(uri)
        assert manifest.table["n"].to_pylist() == [1, None]
        assert manifest.table["image_uri"].to_pylist() == [f"{tmp_path}/1.png", f"{tmp_path}/3.png"]
        assert _reason(manifest).startswith(f"{tmp_path}/part-1.parquet:1: ")


def test_a_folder_without_rows(tmp_path: Path) -> None:
    """A folder that holds neither pictures nor tables is not a manifest."""
    (tmp_path / "x.txt").write_bytes(b"")
    with pytest.raises(JobError, match="expected pictures"):
        read_images(str(tmp_path))


@pytest.mark.parametrize("uri", ["/etc/passwd", "file:///etc/passwd", "http://169.254.169.254/x", "gs://b/x"])
@pytest.mark.parametrize("column", ["image_uri", "mask_uri"])
def test_a_remote_manifest_names_only_its_storage(s3: str, uri: str, column: str) -> None:
    """Rows of a manifest on S3 that name local files or other services are refused; relative ones are on S3."""
    rows = [{"image_id": "a", "image_uri": "a.png"}, {"image_id": "b", "image_uri": "b.png", column: uri}]
    storage.write_bytes(f"{s3}/images.jsonl", "\n".join(map(json.dumps, rows)).encode())
    manifest = read_images(f"{s3}/images.jsonl")
    assert manifest.table["image_uri"].to_pylist() == [f"{s3}/a.png"]
    assert "may name only s3:// URIs" in _reason(manifest) or "got scheme" in _reason(manifest)


def test_a_folder_on_s3_is_a_manifest(s3: str) -> None:
    """Folders and patterns work on S3 as on disk."""
    for name in ("x/a.png", "x/y/b.png"):
        storage.write_bytes(f"{s3}/{name}", b"")
    assert read_images(f"{s3}/x").table["image_id"].to_pylist() == ["a", "y/b"]
    assert read_images(f"{s3}/x/*.png").table.to_pylist()[0]["image_uri"] == f"{s3}/x/a.png"


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_parts_of_a_file_give_what_the_whole_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """However few rows are read at a time: rows, types, refusals and their lines are the same."""
    ids = ["a", "b", "b", "", "c", "d", "e"]
    rows = {"image_id": ids, "image_uri": ["x.png"] * 7, "label": ["1", None, None, None, None, "2", None]}
    path = tmp_path / f"images.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table(rows), path)
    else:
        lines = [",".join(cell or "" for cell in cells) for cells in zip(*rows.values(), strict=True)]
        path.write_text("\n".join([",".join(rows), *lines[:5], "too,many,cells,here", *lines[5:]]) + "\n")
    whole = read_images(str(path))
    for size in (1, 2, 3, 7):
        monkeypatch.setattr(image_manifest, "_PART_ROWS", size)
        read = read_images(str(path))
        assert read.table.combine_chunks().equals(whole.table.combine_chunks())
        assert read.refusals == whole.refusals
    assert whole.table["image_id"].to_pylist() == ["a", "b", "c", "d", "e"]
    assert [refusal.line for refusal in whole.refusals] == ([3, 4] if suffix == "parquet" else [4, 5, 7])
