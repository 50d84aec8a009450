"""How often Ray looks whether a job has something for it to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from pipeline.cluster import graph
from pipeline.counts import Counts
from tests.small_job import photograph, write_inputs


def test_ray_waits_for_tasks_as_long_as_the_job_says(
    run: Callable[..., Counts], output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interval is a name of Ray's own, which another version may not have, or not go by."""
    images, prompts = write_inputs(tmp_path / "in", {"0.png": photograph(0)})
    timeouts, wait = set(), ray.wait

    def noted(*words: Any, timeout: float | None = None, **options: Any) -> Any:
        timeouts.add(timeout)
        return wait(*words, timeout=timeout, **options)

    monkeypatch.setattr(ray, "wait", noted)
    monkeypatch.setattr(graph, "_LOOK_SECONDS", 0.1875)  # which nothing of Ray's waits by itself
    assert run("invert", images=str(images), prompts=str(prompts), output=str(output)).inverted == 1
    assert 0.1875 in timeouts
