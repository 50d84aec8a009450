"""`relatent bench scale`, over a few hundred rows on a real Ray."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.bench.scale_report import ScaleReport, Size
from tests.commands import call


def test_it_accounts_for_every_row_of_a_nightly_job(tmp_path: Path) -> None:
    """What the output lacked was made, the rest found there; figures, table and curves say so."""
    figures, curves = tmp_path / "scale.json", tmp_path / "scale.png"
    words = ["--rows", "300", "--row-seconds", "0", "--batch-size", "4", "--json", str(figures), "--plot", str(curves)]
    done = call("bench", "scale", *words)
    assert done.returncode == 0, done.stderr
    report = json.loads(figures.read_text())
    (size,) = report["sizes"]
    # Every fourth image is of a mug, for which there is a second prompt; of the last three, which are new, none is.
    assert (size["rows"], size["edits"]) == (300, 375)
    assert (size["inverted"], size["edited"]) == (3, 3)
    assert 0 < size["finding_s"] < size["again_s"]
    assert size["planning_rate"] == pytest.approx(300 / size["planning_s"])
    assert size["anti_join_rate"] == pytest.approx(300 / (size["index_s"] + size["finding_s"]))
    assert size["libraries_mb"] < size["driver_mb"] < 2000
    assert {kind: (of["files"], of["added"] > 0) for kind, of in size["tables"].items()} == {
        "inversions": (1, True),
        "edits": (1, True),
        "sources": (1, True),
    }
    names = set(Size.__dataclass_fields__)
    read = ScaleReport(**{**report, "sizes": [Size(**{name: size[name] for name in names})]})
    assert read.table() in done.stdout
    assert curves.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("rows", ["many", "0", "10,,20"])
def test_rows_are_numbers(rows: str) -> None:
    """What is none is refused in one line, before anything is written."""
    done = call("bench", "scale", "--rows", rows)
    assert done.returncode == 2
    assert done.stderr == f"error: --rows: expected numbers above 0, separated by commas; got {rows!r}\n"
