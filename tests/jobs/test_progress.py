"""What is said while a job runs, and at its end."""

from __future__ import annotations

import dataclasses
import json

import pytest

from jobs import job, progress
from jobs.log import json_lines, tell_refusals
from jobs.report import closing_lines, duration
from pipeline.config import JobConfig
from pipeline.counts import Counts
from pipeline.estimate import work_of
from pipeline.planning import Plan
from pipeline.records import Refusal

PLAN = Plan("run", JobConfig(output="/out"), range(10), (), (), "f" * 64, edits=30)


def test_off_a_terminal_there_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Plain lines go to standard error, with counts, failures and the time left."""
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.01)
    with progress.progress(PLAN) as update:
        update(Counts(inverted=5, edited=14, edits_failed=1, codes={"non_finite": 1}))
        progress.time.sleep(0.1)
    told = capsys.readouterr()
    assert told.out == ""
    assert "images 5/10, edits 15/30, failures 1" in told.err
    assert "left" in told.err


def test_the_rest_is_timed_by_what_was_made_now() -> None:
    """Rows that were there already took no time, an inversion is as many edits as it costs, and each has its rate."""
    plan = Plan("run", JobConfig(output="/out"), range(1000), (), (), "f" * 64, edits=9000)
    inversion, edit = work_of(plan)
    line = progress._line(plan, Counts(inverted=16, reused=400, kept=3000), 60)
    rest = duration(60 * (584 * inversion + 6000 * edit) / (16 * inversion))
    assert line.endswith(f"inverted 0.27/s, edited 0.00/s, {rest} left")
    assert progress._line(plan, Counts(reused=400, kept=3000), 60).endswith("starting")


def test_a_run_that_did_nothing_says_so() -> None:
    """Running a finished command again reports nothing new, and what was there."""
    lines = list(closing_lines(PLAN, Counts(reused=10, kept=30)))
    assert lines[0] == "0 inverted, 0 edited, 0 failed"
    assert "10 of 10 inversions, 30 of 30 edits" in lines[1]


def test_a_budget_that_is_spent_is_an_interruption(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is left is said, also where rows failed, and the exit code is that of a run to be resumed."""
    config = JobConfig(output="/out", budget_gpu_hours=2)
    plan = dataclasses.replace(PLAN, config=config)
    counts = Counts(inverted=4, images_failed=1, edited=12, edits_failed=3, codes={"non_finite": 1})
    assert (
        "stopped: the budget of 2 GPU-hours is spent; 5 images and 15 edits were not reached; the same command goes on"
        in closing_lines(plan, counts)
    )
    monkeypatch.setattr(job, "started", lambda command, config: plan)
    for done, code in ((counts, 130), (Counts(reused=10, kept=30), 0)):
        monkeypatch.setattr(job, "finish", lambda plan, *, insist, done=done: done)
        assert job.run_job("run", config) == code


def test_a_log_is_lines_of_json_alone(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals and progress are events too, and with prompts redacted a refusal says where and not what."""
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.01)
    config = JobConfig(output="/out", log_json=True, redact_prompts=True)
    plan = dataclasses.replace(PLAN, config=config)
    with json_lines(config):
        tell_refusals([Refusal("prompts.yaml", 3, "prompt: expected …; got 'a secret'", "blue")])
        with progress.progress(plan) as update:
            update(Counts(inverted=5))
            progress.time.sleep(0.1)
    refused, *told = map(json.loads, capsys.readouterr().err.splitlines())
    assert (refused["event"], refused["file"], refused["line"]) == ("refused", "prompts.yaml", 3)
    assert "secret" not in json.dumps(refused)
    assert {(line["event"], line["inverted"], line["run"]) for line in told} == {("progress", 5, refused["run"])}


@pytest.mark.parametrize(("seconds", "said"), [(5, "5 s"), (65, "1 min 5 s"), (7260, "2 h 1 min")])
def test_durations(seconds: float, said: str) -> None:
    """Durations are said in the units that matter."""
    assert duration(seconds) == said


def test_counts_add_up() -> None:
    """Counts of rows add to those of the job, codes included."""
    total = Counts(inverted=1, codes={"a": 1}) + Counts(images_failed=2, edits_failed=3, codes={"a": 1, "b": 1})
    assert total == Counts(inverted=1, images_failed=2, edits_failed=3, codes={"a": 2, "b": 1})
    assert (total.images, total.edits, total.failures) == (3, 3, 3)
