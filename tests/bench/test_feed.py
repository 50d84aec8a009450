"""`relatent bench pipeline`, over a small job on a real Ray."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.bench.feed import FeedReport
from pipeline.cluster import session, spans
from pipeline.cluster.spans import Span
from tests.commands import call
from tests.small_model import save_small_model


def test_it_accounts_for_the_time_of_a_whole_job(tmp_path: Path) -> None:
    """Every stage worked, the engine no longer than the job lasted; the table and the JSON file say the same."""
    model, figures = save_small_model(tmp_path / "small"), tmp_path / "feed.json"
    engines = min(2, session._own_cores())
    words = ["--images", "3", "--preset", "fast", "--batch-size", "1", "--num-cpus", "1", "--model", str(model)]
    done = call("bench", "pipeline", *words, "--actors", str(engines), "--json", str(figures))
    assert done.returncode == 0, done.stderr
    report = FeedReport(**json.loads(figures.read_text()))
    assert (report.images, report.edits, report.engines) == (3, 12, engines)
    assert ", 1 CPU threads" in report.machine
    assert report.stages.keys() == {"fetch", "invert", "edit", "publish"}
    assert list(report.startup_s) == ["imports", "plan", "ray", "first rows", "model"]
    assert all(seconds > 0 for seconds in (*report.stages.values(), *report.startup_s.values(), report.engine_s))
    assert 0 < report.busy_share <= 1
    engine_s = report.stages["invert"] + report.stages["edit"]
    assert engine_s / engines + sum(report.startup_s.values()) < report.job_s
    assert report.table() in done.stdout


def test_work_is_noted_only_where_it_is_asked_for(tmp_path: Path) -> None:
    """Spans come back in the order in which they began; outside of the context nothing is written."""
    spans.add("fetch", 1.0, 2.0)
    with spans.noted(tmp_path):
        spans.add("edit", 5.0, 6.5)
        spans.add("invert", 3.0, 4.0)
    spans.add("publish", 7.0, 8.0)
    noted = spans.read(tmp_path)
    assert [(span.stage, span.seconds) for span in noted] == [("invert", 1.0), ("edit", 1.5)]
    assert all(isinstance(span, Span) for span in noted)
