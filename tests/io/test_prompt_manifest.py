from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.errors import JobError
from pipeline.io.manifest import PromptManifest, check_plan, read_images, read_prompts
from pipeline.records import PromptRow
from pipeline.settings import InversionSettings

ROWS: list[dict[str, Any]] = [
    {"edit_id": "plain", "prompt": "a mug"},
    {"edit_id": "sweep", "prompt": 'a blue mug, "glossy"', "strength": [0.0, 0.5, 1.0]},
    {
        "edit_id": "all",
        "prompt": "a {colour} mug",
        "strength": 1.25,
        "negative_prompt": "blur",
        "guidance_scale": 2.5,
        "seed": 7,
        "image_id": "mug-1",
        "hold_self_attention": 0.5,
        "hold_cross_attention": 0.25,
        "word_weights": {"mug": 2.0, "a": -1.0},
        "where": {"category": ["mug", "vase"], "colour": "red"},
    },
    {"edit_id": "both", "edits": [{"prompt": "a blue mug"}, {"prompt": "a mug on a lawn", "strength": 0.5}]},
]
COLUMNS = list(PromptRow.model_fields)


def _write(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    path = folder / name
    if name.endswith(".parquet"):
        lists = [{**row, "strength": _as_list(row.get("strength"))} for row in rows]
        pq.write_table(pa.Table.from_pylist([{c: row.get(c) for c in COLUMNS} for row in lists]), path)
    elif name.endswith(".csv"):
        path.write_text(
            "\n".join(
                ",".join(_cell(row.get(c)) for c in COLUMNS)
                for row in [dict(zip(COLUMNS, COLUMNS, strict=True)), *rows]
            )
        )
    elif name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(yaml.safe_dump(rows))
    return str(path)


def _as_list(strength: Any) -> list[float] | None:
    return strength if isinstance(strength, list) or strength is None else [strength]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value)
    return '"' + text.replace('"', '""') + '"'


def _text(folder: Path, text: str, name: str = "prompts.yaml") -> PromptManifest:
    (folder / name).write_text(text)
    return read_prompts(str(folder / name))


def _reason(manifest: PromptManifest) -> str:
    assert len(manifest.refusals) == 1, manifest.refusals
    return str(manifest.refusals[0])


@pytest.mark.parametrize("name", ["p.yaml", "p.yml", "p.jsonl", "p.csv", "p.parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    """Texts, numbers, lists of strengths and conditions mean the same in each format."""
    manifest = read_prompts(_write(tmp_path, name, ROWS))
    assert manifest.refusals == ()
    assert [row.strengths for row in manifest.rows] == [(1.0,), (0.0, 0.5, 1.0), (1.25,), (1.0,)]
    assert [row.model_dump(exclude={"strength"}) for row in manifest.rows] == [
        PromptRow.model_validate(row).model_dump(exclude={"strength"}) for row in ROWS
    ]


@pytest.mark.parametrize("strength", ["0.5", '"[0.5]"', '"[0, 0.5, 1]"', "", "1"])
def test_strengths_in_a_csv_cell(tmp_path: Path, strength: str) -> None:
    """A cell is one number, a JSON list, or empty for the default."""
    manifest = _text(tmp_path, f"edit_id,prompt,strength\na,x,{strength}\n", "p.csv")
    expected = {"0.5": (0.5,), '"[0.5]"': (0.5,), '"[0, 0.5, 1]"': (0.0, 0.5, 1.0), "": (1.0,), "1": (1.0,)}
    assert manifest.rows[0].strengths == expected[strength]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "x"}, "edit_id: required, and not given"),
        ({"edit_id": "a"}, "prompt: required, and not given"),
        ({"edit_id": "a", "prompt": "  "}, "prompt: expected some text; got '  '"),
        ({"edit_id": "a", "prompt": ""}, "prompt: "),
        ({"edit_id": "a", "prompt": "x", "promt": "y"}, "promt: unknown column"),
        ({"edit_id": "a", "prompt": "x", "promt": None}, "promt: unknown column"),
        (
            {"edit_id": "a", "prompt": "x", "strength": 3.5},
            "strength: expected a number or a list of numbers from -1 to 3",
        ),
        ({"edit_id": "a", "prompt": "x", "strength": [0.5, -2]}, "strength: expected a number or a list"),
        ({"edit_id": "a", "prompt": "x", "strength": []}, "strength: expected a number or a list"),
        ({"edit_id": "a", "prompt": "x", "strength": "a lot"}, "got 'a lot'"),
        ({"edit_id": "a", "prompt": "x", "strength": [0.5, 1, 0.5]}, "strength: expected each value once"),
        ({"edit_id": "a", "prompt": "x", "seed": -1}, "seed: "),
        ({"edit_id": "a", "prompt": "x", "guidance_scale": 99}, "guidance_scale: "),
        ({"edit_id": "a", "prompt": "x", "hold_structure": 1.5}, "hold_structure: "),
        ({"edit_id": "a", "prompt": "x", "hold_structure": True}, "hold_structure: expected a number; got True"),
        ({"edit_id": "a", "prompt": "x", "strength": [0, True]}, "strength: expected a number or a list"),
        ({"edit_id": "a", "prompt": "x", "seed": False}, "seed: expected a number; got False"),
        ({"edit_id": "a", "prompt": "x", "edits": [{"prompt": "y"}]}, "edits: expected either a prompt or edits; got"),
        (
            {"edit_id": "a", "edits": [{"prompt": "y"}], "word_weights": {"y": 2}},
            "word_weights: expected a prompt, whose words have places; got edits",
        ),
        (
            {"edit_id": "a", "edits": [{"prompt": "y"}], "hold_cross_attention": 0.5},
            "hold_cross_attention: expected a prompt",
        ),
        ({"edit_id": "a", "edits": []}, "edits: expected a list of {prompt, strength}; got []"),
        ({"edit_id": "a", "edits": "x"}, "edits: expected a list of {prompt, strength}; got 'x'"),
        ({"edit_id": "a", "edits": ["x"]}, "edits[0]: expected a list of {prompt, strength}; got 'x'"),
        ({"edit_id": "a", "edits": [{"prompt": "x"}, {"strength": 1}]}, "edits[1].prompt: required, and not given"),
        ({"edit_id": "a", "edits": [{"prompt": "x", "strength": 4}]}, "edits[0].strength: "),
        ({"edit_id": "a", "edits": [{"prompt": "x", "weight": 1}]}, "edits[0].weight: unknown column"),
        ({"edit_id": "a", "edits": [{"prompt": "a {mug"}]}, "edits[0].prompt: "),
        ({"edit_id": "a", "prompt": "x", "hold_self_attention": -0.1}, "hold_self_attention: "),
        ({"edit_id": "a", "prompt": "x", "hold_cross_attention": "all"}, "hold_cross_attention: "),
        (
            {"edit_id": "a", "prompt": "x", "word_weights": {"x": 11}},
            "word_weights: expected a mapping of words to factors from -2 to 10; got 11",
        ),
        (
            {"edit_id": "a", "prompt": "x", "word_weights": ["x"]},
            "word_weights: expected a mapping of words to factors",
        ),
        (
            {"edit_id": "a", "prompt": "x", "word_weights": {"y": 2}},
            "word_weights: expected words of the prompt; got 'y'",
        ),
        ({"edit_id": "a", "prompt": "x", "where": "mugs"}, "where: "),
        ({"edit_id": "a", "prompt": "x", "where": {"n": [[1]]}}, "where: expected a value or a list of values for 'n'"),
        ({"edit_id": "a", "prompt": "x", "where": {"n": []}}, "where: expected a value or a list of values for 'n'"),
        ({"edit_id": "../a", "prompt": "x"}, "edit_id: "),
        ({"edit_id": "a/b", "prompt": "x"}, "edit_id: expected no slashes"),
        ({"edit_id": "..", "prompt": "x"}, "edit_id: "),
        ({"edit_id": 3, "prompt": "x"}, "edit_id: "),
        ({"edit_id": "a", "prompt": "a {mug"}, "prompt: "),
        ({"edit_id": "a", "prompt": "a mug}"}, "prompt: "),
        ({"edit_id": "a", "prompt": "a {}"}, "prompt: expected a plain column name"),
        ({"edit_id": "a", "prompt": "a {0}"}, "prompt: expected a plain column name"),
        ({"edit_id": "a", "prompt": "a {x.__class__}"}, "prompt: expected a plain column name"),
        ({"edit_id": "a", "prompt": "a {x[0]}"}, "prompt: expected a plain column name"),
        ({"edit_id": "a", "prompt": "a {x!r}"}, "prompt: expected a plain column name"),
        ({"edit_id": "a", "prompt": "a {x:>9999999999}"}, "prompt: expected a plain column name"),
    ],
)
@pytest.mark.parametrize("name", ["p.yaml", "p.jsonl"])
def test_refusals_say_file_line_and_reason(tmp_path: Path, name: str, row: dict[str, Any], reason: str) -> None:
    """A row that is not valid is refused where it stands; the rows around it are read."""
    path = tmp_path / name
    rows = [{"edit_id": "first", "prompt": "x"}, row, {"edit_id": "last", "prompt": "x"}]
    path.write_text("".join(f"- {json.dumps(r)}\n" if name == "p.yaml" else f"{json.dumps(r)}\n" for r in rows))
    manifest = read_prompts(str(path))
    assert [r.edit_id for r in manifest.rows] == ["first", "last"]
    assert manifest.lines == (1, 3)
    assert _reason(manifest).startswith(f"{path}:2: ")
    assert reason in _reason(manifest)
    assert "\n" not in _reason(manifest)


def test_yaml_lines_are_where_rows_begin(tmp_path: Path) -> None:
    """Comments and long rows are counted."""
    text = "# styles\n- edit_id: a\n  prompt: >\n    two\n    lines\n\n- edit_id: a\n  prompt: x\n- just text\n"
    manifest = _text(tmp_path, text)
    assert manifest.lines == (2,)
    assert [(r.line, r.row_id) for r in manifest.refusals] == [(7, "a"), (9, None)]
    assert manifest.refusals[0].reason.endswith("p.yaml:2".replace("p.", "prompts."))


@pytest.mark.parametrize("text", ["edit_id: a", "- [", "- {a: b", "- a\n---\n- b", "[" * 5000])
def test_yaml_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    """What is not one list of rows stops the job with one line."""
    with pytest.raises(JobError, match=r"prompts\.yaml") as raised:
        _text(tmp_path, text)
    assert "\n" not in str(raised.value)


def test_yaml_makes_no_objects(tmp_path: Path) -> None:
    """Tags that would construct objects cost their row."""
    manifest = _text(tmp_path, "- edit_id: a\n  prompt: !!python/object/apply:os.system ['true']\n")
    assert "not YAML" in _reason(manifest)


def test_yaml_bombs_are_refused(tmp_path: Path) -> None:
    """Nested aliases that would expand to billions of values are refused without expanding them."""
    levels = "\n".join(f"    - &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 12))
    manifest = _text(tmp_path, f"- edit_id: a\n  prompt: x\n  where:\n   c:\n    - &l0 [x]\n{levels}\n")
    assert len(_reason(manifest)) < 1000


def test_an_empty_manifest_has_no_rows(tmp_path: Path) -> None:
    """Nothing asked is not an error of the file."""
    assert _text(tmp_path, "# nothing yet\n").rows == ()


def test_absent_and_unknown_files(tmp_path: Path) -> None:
    """A manifest that is not there, or in no known format, stops the job."""
    with pytest.raises(JobError, match="no such file"):
        read_prompts(str(tmp_path / "p.yaml"))
    with pytest.raises(JobError, match=r"expected a .* file; got nothing there"):
        read_prompts(str(tmp_path / "p.txt"))
    with pytest.raises(JobError, match=r"expected a .* file; got a folder"):
        read_prompts(str(tmp_path))
    with pytest.raises(JobError, match=r"P\.CSV: expected columns edit_id; got none"):
        _text(tmp_path, "", "P.CSV")


def test_the_plan_is_checked_against_the_images(tmp_path: Path) -> None:
    """Columns and images that no image row has are refused with the prompt's line; what fits is not."""
    (tmp_path / "images.csv").write_text("image_id,image_uri,colour\nmug-1,a.png,red\n")
    images = read_images(str(tmp_path / "images.csv"))
    rows = [
        {"edit_id": "fits", "prompt": "a {colour} {image_id}", "image_id": "mug-1", "where": {"colour": "red"}},
        {"edit_id": "braces", "prompt": "literal {{size}}"},
        {"edit_id": "column", "edits": [{"prompt": "a {colour} mug"}, {"prompt": "a {size} mug"}]},
        {"edit_id": "where", "prompt": "x", "where": {"category": "mug"}},
        {"edit_id": "image", "prompt": "x", "image_id": "mug-2"},
    ]
    path = _write(tmp_path, "p.jsonl", rows)
    refusals = check_plan(images, read_prompts(path))
    assert [(r.file, r.line, r.row_id) for r in refusals] == [
        (path, 3, "column"),
        (path, 4, "where"),
        (path, 5, "image"),
    ]
    assert [r.reason.partition(":")[0] for r in refusals] == ["prompt", "where", "image_id"]
    assert "{size}" in refusals[0].reason
    assert "'mug-2'" in refusals[2].reason


@pytest.mark.parametrize(
    ("row", "fitted", "reason"),
    [
        ({}, 1.0, None),
        ({"negative_prompt": "blur", "guidance_scale": 1}, None, "negative_prompt: expected a guidance scale other"),
        ({"negative_prompt": "blur"}, 1.0, "negative_prompt: expected a guidance scale other than 1; at 1 it has no"),
        ({"negative_prompt": "blur"}, 1.5, None),
        ({"negative_prompt": ""}, 1.0, None),
        ({"negative_prompt": "blur"}, "unguided", "negative_prompt: expected a guidance_share above 0; without guided"),
        ({"guidance_scale": 5}, "unguided", "guidance_scale: expected a guidance_share above 0; without guided steps"),
        ({}, "unguided", None),
    ],
)
def test_what_would_have_no_say_is_refused(
    tmp_path: Path, row: dict[str, Any], fitted: float | str | None, reason: str | None
) -> None:
    """A row whose guidance, its own or the job's, would leave out what it says; an unknown guidance refuses nothing."""
    (tmp_path / "images.csv").write_text("image_id,image_uri\nmug-1,a.png\n")
    path = _write(tmp_path, "p.jsonl", [{"edit_id": "e", "prompt": "x", **row}])
    settings = {"guidance_share": 0.0} if fitted == "unguided" else {"guidance_scale": fitted}
    inversion = None if fitted is None else InversionSettings.model_validate(settings)
    refusals = check_plan(read_images(str(tmp_path / "images.csv")), read_prompts(path), inversion)
    assert len(refusals) == (reason is not None)
    assert all(reason in str(refusal) for refusal in refusals)
