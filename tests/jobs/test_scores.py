"""How a job's scores are asked for, and how it is said that some will be missing."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from jobs.cli import relatent
from jobs.options import read_config
from jobs.report import closing_lines
from pipeline.cluster import execution
from pipeline.config import JobConfig
from pipeline.counts import Counts
from pipeline.io.run_record import recorded
from pipeline.planning import Plan
from tests.small_job import photograph, write_inputs
from tests.small_model import save_small_model


def test_flags_name_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They win over the file's group; run.json has folders so that they hold in any directory, and hub ids as given."""
    (tmp_path / "job.yaml").write_text("scores: {clip: openai/clip-vit-large-patch14, lpips: old}\n")
    (tmp_path / "new").mkdir()
    monkeypatch.chdir(tmp_path)
    config = read_config("job.yaml", {"lpips": "new", "dino": None})
    assert recorded(config)["scores"] == {
        "clip": "openai/clip-vit-large-patch14",
        "dino": None,
        "lpips": str(tmp_path / "new"),
    }
    assert JobConfig.model_validate(recorded(config)).scores.clip == config.scores.clip


def test_what_will_be_missing_is_said_before_anything_is_made(tmp_path: Path) -> None:
    """A plan names the folders that are not there, as an event where a log is asked for, and goes on."""
    images, prompts = write_inputs(tmp_path / "in", {"0.png": photograph(0)})
    model = str(save_small_model(tmp_path / "model"))
    flags = ["--images", images, "--prompts", prompts, "--output", str(tmp_path / "out"), "--model", model]
    weights = ["--clip", str(tmp_path / "clip"), "--lpips", str(tmp_path), "--dino", "facebook/dino-vitb8"]
    done = CliRunner().invoke(relatent, ["plan", *flags, *weights])
    assert done.exit_code == 0
    clip, lpips = done.stderr.splitlines()
    assert clip == f"missing: clip {tmp_path / 'clip'}: no such folder"
    assert lpips.startswith(f"missing: lpips {tmp_path}: expected torchvision's squeezenet1_1")
    logged = CliRunner().invoke(relatent, ["plan", *flags, *weights, "--log-json"])
    events = [json.loads(line) for line in logged.stderr.splitlines()]
    assert [(event["event"], event["level"], event["score"]) for event in events] == [
        ("score_missing", "warning", "clip"),
        ("score_missing", "warning", "lpips"),
    ]


def test_what_turns_out_to_be_missing_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However many parts say so, there is one event, one line at the end, and a reason in run.json."""
    damaged, absent = "clip /c: damaged", "dino /d: no such folder"
    config = JobConfig(output=str(tmp_path / "out"))
    plan = Plan("run", config, pa.table({"image_id": ["a", "b"]}), (), (), "f" * 64, 2, {"dino": absent})
    parts = [Counts(inverted=1, edited=1, missing_scores={"clip": damaged, "dino": absent})] * 2
    monkeypatch.setattr(execution, "connect", lambda config, rows: SimpleNamespace(dtype="float32"))
    monkeypatch.setattr(execution, "outcomes", lambda *_: iter(parts))
    with caplog.at_level(logging.INFO, "relatent"):
        counts = execution.execute(plan, lambda _: None)
    fields = [record.fields for record in caplog.records if record.getMessage() == "score_missing"]
    assert fields == [{"score": "clip", "reason": damaged}]
    assert [line for line in closing_lines(plan, counts) if "missing" in line] == [f"missing: {damaged}"]
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["missing_scores"] == {"clip": damaged, "dino": absent}
    assert json.loads(json.dumps(record["config"]["scores"])) == dict.fromkeys(("clip", "dino", "lpips"))
