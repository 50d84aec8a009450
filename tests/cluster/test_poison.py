"""Rows that end the processes that work on them, or hang in them, on a real Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.cluster import execution, graph
from pipeline.counts import Counts
from pipeline.io.images import encode_png
from pipeline.stages import engine
from tests.cluster.deadly import HANG, SEGFAULT, deadly_editor
from tests.results import results
from tests.small_job import photograph, table, write_inputs
from tests.stages.hostile import HostileFetch, HostilePublish


class DeadlyActor(graph._EngineActor):
    """An engine actor whose editor is deadly, in its own process and in those that it starts."""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        engine._editor = deadly_editor


def picture(first: int) -> bytes:
    """PNG of one shade."""
    return encode_png(np.full((32, 48, 3), first, np.uint8), None, None)


def test_rows_that_end_their_process_or_hang_fail_and_the_others_are_done(
    run: Callable[..., Counts], output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers die over four rows of one batch; each fails with its cause, and the batch mates have all their edits."""
    monkeypatch.setattr(execution, "Fetch", HostileFetch)
    monkeypatch.setattr(execution, "Publish", HostilePublish)
    monkeypatch.setattr(graph, "_EngineActor", DeadlyActor)
    pictures = {
        "first.png": photograph(0),
        "hostile.png": photograph(1),
        "deadly.png": picture(SEGFAULT),
        "endless.png": picture(HANG),
        "unpublishable.png": photograph(3),
        "last.png": photograph(2),
    }
    images, prompts = write_inputs(tmp_path / "in", pictures)
    job = {"images": images, "prompts": prompts, "output": str(output), "batch_size": 6, "row_seconds": 3}
    counts = run("run", **job)
    assert (counts.images, counts.images_failed, counts.edits, counts.edits_failed) == (6, 3, 15, 10)
    failures = {row["image_id"]: (row["code"], row["message"]) for row in table(output, "failures")}
    assert {name: code for name, (code, _) in failures.items()} == {
        "hostile": "decoder_died",
        "deadly": "worker_died",
        "endless": "timed_out",
        "unpublishable": "publisher_died",
    }
    assert "SIGSEGV" in failures["hostile"][1]
    assert "SIGSEGV" in failures["deadly"][1]
    assert {place.split("/")[1] for place in results(output).edits} == {"first", "last"}
