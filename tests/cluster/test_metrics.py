"""A job's metrics as Prometheus gets them, and its log as a person does."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from jobs.log import json_lines
from pipeline.cluster import metrics
from pipeline.config import JobConfig
from pipeline.counts import Counts
from tests.small_job import photograph, write_inputs

_SAMPLE = re.compile(r"^ray_(relatent_\w+)\{(.*)\} (\S+)$")


class Samples:
    """What this node's endpoint has of ours at one moment."""

    def __init__(self) -> None:
        (node,) = ray.nodes()
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        with urllib.request.urlopen(url, timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        self._found = [match.groups() for line in lines if (match := _SAMPLE.match(line))]

    def total(self, name: str, label: str = "") -> float:
        """A metric over all processes, of the samples with a label."""
        return sum(float(value) for found, labels, value in self._found if found == name and label in labels)


def test_a_job_is_scraped_and_logged(
    run: Callable[..., Counts], output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every metric comes out of the node's endpoint as the job did it; each result is a line of the log."""
    images, prompts = write_inputs(tmp_path / "in", {"0.png": photograph(0), "1.png": photograph(1), "2.png": b"text"})
    job = {"images": images, "prompts": prompts, "output": str(output), "batch_size": 4}
    before = Samples() if ray.is_initialized() else None
    with json_lines(JobConfig(log_json=True, redact_prompts=True)):
        counts = run("run", **job, log_json=True)
    # An actor's own share is told only while it lives; a job this small is over before Ray reports.
    list(metrics.Busy().over(iter([[], []])))
    assert (counts.inverted, counts.edited, counts.codes) == (2, 5, {"image_not_decodable": 1})
    deadline = time.monotonic() + 120
    while True:  # Ray reports every ten seconds
        now = Samples()
        grown = {name: now.total(name) - (before.total(name) if before else 0.0) for name in metrics.COUNTERS}
        done = grown["relatent_inverted_total"] >= 2 and grown["relatent_edited_total"] >= 5 and now.total(metrics.BUSY)
        if (done and all(grown.values())) or time.monotonic() > deadline:
            break
        time.sleep(1)
    # At least: what an earlier test did may be reported as late as now.
    assert grown["relatent_inverted_total"] >= 2
    assert grown["relatent_edited_total"] >= 5
    assert now.total("relatent_failures_total", 'code="image_not_decodable"') >= 1
    assert grown["relatent_iterations_total"] > 0
    for stage in ("fetch", "invert", "edit", "publish"):
        assert now.total("relatent_seconds_total", f'stage="{stage}"') > 0
    written = sum(picture.stat().st_size for picture in output.rglob("*.png"))
    assert now.total("relatent_bytes_total", 'direction="out"') > written
    assert now.total("relatent_bytes_total", 'direction="in"') >= len(photograph(0)) + len(photograph(1))
    assert now.total(metrics.BUSY) > 0

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    lines = [line for line in lines if line["event"] != "log"]  # pytest shows warnings that Python hides
    events = sorted(line["event"] for line in lines)
    assert events == ["edited"] * 5 + ["failed"] + ["inverted"] * 2
    assert {line["image_id"] for line in lines} == {"0", "1", "2"}
    assert len({line["run"] for line in lines}) == 1
    assert "mug" not in json.dumps(lines)
