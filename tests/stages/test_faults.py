"""Jobs over object storage that fails."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.io import retries
from pipeline.io.storage import write_bytes
from pipeline.records import PromptRow
from pipeline.stages.rows import Asked
from tests.faults import FAULTS, Proxy
from tests.results import Results, results
from tests.stages.conftest import Job
from tests.stages.stand_in import StandInEditor

PROMPTS = [PromptRow(edit_id="blue", prompt="a blue photo", strength=(0.0, 0.5, 1.0))]


@pytest.fixture
def undisturbed(photograph: Callable[..., Asked], output: Path) -> tuple[list[Asked], Results]:
    """Rows, and what comes of them."""
    rows = [photograph(f"{i}", 20 * i + 20) for i in range(4)]
    Job(output, StandInEditor(), PROMPTS).run(rows)
    return rows, results(output)


def on_s3(rows: Sequence[Asked], s3: str) -> list[Asked]:
    """The same photographs there."""
    moved = [Asked(**{**row, "image_uri": f"{s3}/in/{row['image_id']}.png"}) for row in rows]
    for row, there in zip(rows, moved, strict=True):
        write_bytes(there["image_uri"], Path(row["image_uri"]).read_bytes())
    return moved


def test_a_job_is_right_when_a_fifth_of_its_requests_fail(
    undisturbed: tuple[list[Asked], Results], proxy: Proxy, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors, resets, lost, slow and truncated answers cost time and nothing else."""
    monkeypatch.setattr(retries.time, "sleep", lambda seconds: None)
    rows, expected = undisturbed
    assert Job(s3, StandInEditor(), PROMPTS).run(on_s3(rows, s3)).failures == 0
    assert results(s3) == expected
    assert set(FAULTS) <= proxy.met.keys()


def test_a_job_waits_out_a_minute_without_storage(
    undisturbed: tuple[list[Asked], Results], proxy: Proxy, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No answer for 60 s, in the midst of publishing: and a job that waits longer, though not here."""
    waited: Counter[int] = Counter()

    def pause(seconds: float) -> None:
        waited[threading.get_ident()] += seconds
        if max(waited.values()) > 60:
            proxy.always = None

    class GoesOut(StandInEditor):
        """Its first edits come with an outage."""

        def edit_rows(self, *words: Any) -> Any:
            proxy.always = "reset"
            return super().edit_rows(*words)

    monkeypatch.setattr(retries.time, "sleep", pause)
    proxy.share = 0
    rows, expected = undisturbed
    assert Job(s3, GoesOut(), PROMPTS).run(on_s3(rows, s3)).failures == 0
    assert results(s3) == expected
    assert max(waited.values()) > 60
