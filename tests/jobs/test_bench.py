"""`relatent bench` as a shell sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import relatent
from tests.small_model import save_small_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the small model."""
    return str(save_small_model(tmp_path_factory.mktemp("model") / "small"))


def test_quality_writes_figures_and_a_report(model: str, tmp_path: Path) -> None:
    """The chosen systems are measured; figures go to the JSON file, the table to the report and to the screen."""
    report = tmp_path / "report"
    words = ["--model", model, "--scenes", "1", "--quick", "--systems", "unedited", "--report", str(report)]
    done = CliRunner().invoke(relatent, ["bench", "quality", *words, "--json", str(tmp_path / "quality.json")])
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "quality.json").read_text())
    assert figures["systems"].keys() == {"unedited"}
    assert "| unedited | 0%" in done.stdout
    assert "| unedited | 0%" in (report / "table.md").read_text()


def test_an_unknown_system_is_refused_in_one_line(model: str, tmp_path: Path) -> None:
    """Exit code 2, and a line that lists what there is."""
    words = ["--model", model, "--systems", "balanced,nobody", "--report", str(tmp_path)]
    done = CliRunner().invoke(relatent, ["bench", "quality", *words])
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: systems: expected some of unedited, ")
    assert line.endswith("got nobody")


def test_speed_measures_random_weights(tmp_path: Path) -> None:
    """A model made on the spot goes through other people's code and ours; the table and the JSON file say the same."""
    words = ["--model", "random-tiny", "--images", "1", "--alone", "1", "--steps", "4"]
    words += ["--systems", "ledits++, img2img, balanced, fast"]
    done = CliRunner().invoke(relatent, ["bench", "speed", *words, "--json", str(tmp_path / "speed.json")])
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "speed.json").read_text())
    assert figures["fixed_iterations"]
    assert figures["systems"].keys() == {"ledits++", "img2img", "balanced", "fast"}
    assert figures["skipped"] == {}
    assert figures["speedups"]["fast"]["img2img"]["invert"] is None  # which inverts nothing
    assert f"| fast | {figures['systems']['fast']['invert_s']:.3f} |" in done.stdout
