"""An output's last job, given again without saying what it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.retry import _retry
from pipeline.counts import Counts
from pipeline.io.outcomes import current_failures
from tests.small_job import photograph, write_inputs


def test_retry_needs_nothing_but_the_output(
    run: Callable[..., Counts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What may pass is tried once more, wherever the command is given."""
    monkeypatch.chdir(tmp_path)
    write_inputs(tmp_path / "in", {"a.png": photograph(0), "bad.png": b"not an image", "late.png": None})
    run("run", images="in/images.csv", prompts="in/prompts.jsonl", output="out", batch_size=4)
    (tmp_path / "in/late.png").write_bytes(photograph(1))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    output = str(tmp_path / "out")
    assert _retry(output, insist=False) == 1
    told = capsys.readouterr()
    assert "retry: 1 of 2 failures are tried again; 1 failed for good, and --all insists" in told.err
    assert "1 inverted, 2 edited, 1 failed" in told.out
    assert [(row["image_id"], row["attempts"]) for row in current_failures(output)] == [("bad", 1)]
    assert json.loads((tmp_path / "out/run.json").read_text())["state"] == "finished"
