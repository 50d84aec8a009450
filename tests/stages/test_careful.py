"""Fetching over which a process has died."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import JobConfig
from pipeline.planning import Asking
from pipeline.records import PromptRow
from pipeline.stages.careful import fetched_carefully
from pipeline.stages.fetch import Fetch
from pipeline.stages.rows import Asked, load_failures
from tests.stages.conftest import FINGERPRINT, committed_in
from tests.stages.hostile import HostileFetch

BLUE = PromptRow(edit_id="blue", prompt="a blue photo", strength=(0.0, 1.0))


@pytest.fixture
def rows(photograph: Callable[..., Asked]) -> list[Asked]:
    """One picture, and one that may be hostile."""
    return [photograph("hostile"), photograph("good", 50)]


def test_a_picture_that_ends_its_decoder_fails_alone(rows: list[Asked], output: Path) -> None:
    """It fails with all its edits, and its cause; the others are what they are in an ordinary fetch."""
    of_all = (JobConfig(), Asking([BLUE]), FINGERPRINT, committed_in(str(output)))
    hostile, good = fetched_carefully(HostileFetch(*of_all), rows, None)
    assert [good] == Fetch(*of_all)(rows[1:])
    assert hostile["status"] == "failed"
    (failed,) = load_failures(hostile["failures"])
    assert (failed.failure.code, failed.failure.image_id, failed.edits) == ("decoder_died", "hostile", 2)
    assert "SIGSEGV" in failed.failure.message
