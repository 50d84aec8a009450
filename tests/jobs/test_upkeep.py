"""The commands that need nothing but an output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from jobs.cli import relatent
from pipeline.config import JobConfig
from pipeline.io.artifacts import write_rows
from pipeline.io.lease import held
from pipeline.io.run_record import read_record, recorded
from pipeline.io.storage import write_bytes
from tests.io.rows import edit_row, failure_row, inversion_row
from tests.small_job import photograph, table, write_inputs


def call(*words: str) -> Result:
    """Give a command in this process."""
    return CliRunner().invoke(relatent, words)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Results of four images, of which the manifest names two, and the record of the job."""
    images, prompts = write_inputs(tmp_path / "in", {f"{i}.png": photograph(i) for i in range(2)})
    output = tmp_path / "out"
    for i in range(4):
        write_rows(str(output), "inversions", [inversion_row(str(i))])
        write_rows(str(output), "edits", [edit_row(str(i))])
        write_bytes(f"{output}/images/{i}/blue/1.png", b"x" * 1000)
    write_rows(str(output), "failures", [failure_row("gone"), failure_row("1", edit_id="bad", strength=1.0)])
    record(output, JobConfig(images=images, prompts=prompts, output=str(output), limit=1))
    return output


def record(output: Path, config: JobConfig, **state: Any) -> None:
    """Write a run.json."""
    state = state or {"state": "finished", "counts": {"images": 1, "edits": 2}}
    (output / "run.json").write_text(json.dumps({"command": "run", "config": recorded(config), **state}))


@pytest.mark.parametrize("name", ["retry", "prune", "compact"])
def test_without_a_readable_record_there_is_one_line(tmp_path: Path, name: str) -> None:
    """It says what was expected and what was found, and nothing is written."""
    other_version = {"command": "run", "config": {"colour": 1}, "counts": {"images": 0, "edits": 0}}
    cases = [
        (None, f"error: {name}: expected a job's output, with a run.json; got none"),
        ("{}", "run.json: expected a job's record"),
        (json.dumps(other_version), "run.json: config.colour: Extra inputs are not permitted; give the command itself"),
    ]
    for text, said in cases[: 2 if name == "compact" else 3]:  # it asks for nothing of the job
        if text is not None:
            (tmp_path / "run.json").write_text(text)
        done = call(name, str(tmp_path))
        assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
        assert said in done.stderr
        assert {path.name for path in tmp_path.iterdir()} <= {"run.json"}


def test_prune_says_what_would_go_and_then_removes_it(output: Path) -> None:
    """Of all that the manifest names nothing goes, whatever part of it the last run was a trial of."""
    files = sorted(output.rglob("*"))
    said = call("prune", str(output), "--dry-run")
    assert said.exit_code == 0, said.stderr
    assert "edits: 2 of 4 would go, about" in said.stdout
    assert "pictures: 2 of 4 would go, about 2 kB" in said.stdout
    assert "artifacts: 2 of 4 would go" in said.stdout
    assert "failures: 2 of 2 would go" in said.stdout
    assert sorted(output.rglob("*")) == files
    done = call("prune", str(output))
    assert done.exit_code == 0, done.stderr
    assert done.stdout == said.stdout.replace("would go", "went")
    assert {row["image_id"] for kind in ("edits", "inversions") for row in table(output, kind)} == {"0", "1"}
    assert {path.parent.parent.name for path in output.rglob("*.png")} == {"0", "1"}
    assert call("prune", str(output)).stdout == "nothing went\n"


def test_prune_refuses_where_rows_are_refused(output: Path, tmp_path: Path) -> None:
    """A row that is broken for a day does not cost its results."""
    with (tmp_path / "in" / "images.csv").open("a", encoding="utf-8") as file:
        file.write("2,,,\n")
    done = call("prune", str(output))
    assert done.exit_code == 2
    assert "1 manifest rows refused" in done.stderr
    assert len(table(output, "edits")) == 4


def test_compact_merges_files(output: Path) -> None:
    """It says how many there were and are; rows stay."""
    done = call("compact", str(output))
    assert done.exit_code == 0, done.stderr
    assert "edits: 4 files before, 1 now" in done.stdout
    assert len(table(output, "edits")) == len(table(output, "inversions")) == 4


def test_a_record_says_whether_a_run_is_under_way(output: Path) -> None:
    """Its lease tells whether it still is; what was asked for is known from the start."""
    planned = {"state": "running", "planned": {"images": 9, "edits": 30}}
    record(output, JobConfig(output=str(output)), **planned)
    with held(str(output)):
        assert "state: run over 9 images and 30 edits under way (host " in call("status", str(output)).stdout
    assert "over 9 images and 30 edits not finished; `relatent retry`" in call("status", str(output)).stdout


def test_a_recorded_job_is_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read back in another directory, with the output where it is now, it asks for the same."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    config = JobConfig(
        images="in/*.png", prompts="s3://b/p.yaml", model="model", lora=("l.safetensors:0.5",), output="o"
    )
    (tmp_path / "o").mkdir()
    record(tmp_path / "o", config)
    found = read_record(str(tmp_path / "o"))
    assert found is not None
    job = found.job("/elsewhere")
    here = str(tmp_path)
    assert (job.images, job.prompts, job.model) == (f"{here}/in/*.png", "s3://b/p.yaml", f"{here}/model")
    assert (job.lora, job.output, job.inversion) == ((f"{here}/l.safetensors:0.5",), "/elsewhere", config.inversion)
