"""Planned rows and those that came back are compared in the end; the stages run in this process, without a cluster."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from jobs.exits import exits
from jobs.job import run_job
from pipeline.cluster import execution
from pipeline.cluster.session import Resources
from pipeline.cluster.tables import asked_table
from pipeline.config import JobConfig
from pipeline.counts import Counts
from pipeline.errors import RowError
from pipeline.stages.engine import Engine
from tests.results import results
from tests.small_job import photograph, pixels, table, write_inputs
from tests.stages.conftest import parts_of
from tests.stages.stand_in import StandInEditor

Job = Callable[..., int]


@pytest.fixture
def job(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Run a job of two images in one batch, with one editor for each try of it, into an output; its exit code.

    Of every try but the last, whose worker then dies, Ray has taken one part; it drops as many of the next try.
    """
    images, prompts = write_inputs(tmp_path / "in", {f"{i}.png": photograph(i) for i in range(2)})

    def call(output: Path, *editors: StandInEditor, gpus: float = 0.0) -> int:
        def outcomes(plan: Any, fetch: Any, publish: Any, *words: Any) -> Iterator[Counts]:
            fetched = fetch(asked_table(plan.images, of_artifacts=False).to_pylist())
            tries = [list(parts_of(fetched, Engine(plan.config, editor))) for editor in editors]
            parts = [tried[at] for at, tried in enumerate(tries)] + tries[-1][len(tries) :]
            yield from map(publish, parts)

        monkeypatch.setattr(execution, "outcomes", outcomes)
        monkeypatch.setattr(execution, "connect", lambda config, rows: Resources(1, gpus, 1))
        # The budget is not why rows are missing.
        files = {"images": images, "prompts": prompts, "output": str(output), "model": model}
        config = JobConfig(**files, batch_size=2, budget_gpu_hours=10)
        with pytest.raises(typer.Exit) as ended:
            exits(lambda: run_job("run", config))
        return ended.value.exit_code

    return call


@pytest.fixture
def unlucky(tmp_path: Path, job: Job) -> StandInEditor:
    """An editor under which the first image fails."""
    first = int(pixels(tmp_path / "in" / "0.png")[0, 0, 0])
    return StandInEditor({first: RowError("worker_died", "its process died")})


@pytest.mark.parametrize("lucky_first", [True, False])
def test_a_row_that_comes_out_otherwise_on_a_second_try_is_told(
    lucky_first: bool,
    job: Job,
    unlucky: StandInEditor,
    output: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Lost or counted twice: one line, exit code 2, no record of an end; and the same command heals it."""
    assert job(tmp_path / "undisturbed", StandInEditor()) == 0
    capsys.readouterr()
    editors = (StandInEditor(), unlucky)
    assert job(output, *(editors if lucky_first else editors[::-1])) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"error: output {output}: 2 of 2 images and {3 if lucky_first else 7} of 5 edits accounted for: "
        "rows came out otherwise when they were tried again after a worker's death; give the same command again"
    )
    assert json.loads((output / "run.json").read_text())["state"] == "running"
    assert job(output, StandInEditor()) == 0
    assert json.loads((output / "run.json").read_text())["state"] == "finished"
    assert results(output) == results(tmp_path / "undisturbed")


def test_an_output_keeps_its_precision(job: Job, output: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where another machine would choose another, nothing is made anew, and that is said; so says the record."""
    assert job(output, StandInEditor()) == 0
    before = results(output)
    assert job(output, StandInEditor(), gpus=1.0) == 0
    assert results(output) == before
    assert len(table(output, "edits")) == 5
    assert json.loads((output / "run.json").read_text())["config"]["dtype"] == "float32"
    (said,) = caplog.messages
    assert said == "precision: float32, as in this output's last run; --dtype bfloat16 makes all of it anew"


def test_a_run_that_made_nothing_has_no_say_in_the_precision(job: Job, output: Path) -> None:
    """As one that was interrupted before the GPUs had joined."""
    assert job(output, StandInEditor()) == 0
    for folder in ("inversions", "edits"):
        shutil.rmtree(output / folder)
    assert job(output, StandInEditor(), gpus=1.0) == 0
    assert json.loads((output / "run.json").read_text())["config"]["dtype"] == "bfloat16"
