"""Fetching and publishing over which a process has died."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.asking import Asking
from pipeline.config import JobConfig
from pipeline.io.lease import held
from pipeline.io.outcomes import current_failures
from pipeline.records import PromptRow
from pipeline.stages.careful import fetched_carefully, published_carefully
from pipeline.stages.engine import Engine
from pipeline.stages.fetch import Fetch
from pipeline.stages.history import History
from pipeline.stages.publish import Identity
from pipeline.stages.rows import Asked, load_failures
from tests.results import results
from tests.small_job import table
from tests.stages.conftest import FINGERPRINT, committed_in
from tests.stages.hostile import HostileFetch, HostilePublish
from tests.stages.sizes import working_size
from tests.stages.stand_in import StandInEditor

BLUE = PromptRow(edit_id="blue", prompt="a blue photo", strength=(0.0, 1.0))


@pytest.fixture
def rows(photograph: Callable[..., Asked]) -> list[Asked]:
    """One picture, and one that may be hostile."""
    return [photograph("hostile"), photograph("good", 50)]


def test_a_picture_that_ends_its_decoder_fails_alone(rows: list[Asked], output: Path) -> None:
    """It fails with all its edits, and its cause; the others are what they are in an ordinary fetch."""
    of_all = (JobConfig(), Asking([BLUE]), FINGERPRINT, committed_in(str(output)), working_size)
    hostile, good = fetched_carefully(HostileFetch(*of_all), rows, str(output))
    assert [good] == Fetch(*of_all)(rows[1:])
    assert hostile["status"] == "failed"
    (failed,) = load_failures(hostile["failures"])
    assert (failed.failure.code, failed.failure.image_id, failed.edits) == ("decoder_died", "hostile", 2)
    assert "SIGSEGV" in failed.failure.message


def test_a_picture_that_ends_its_publisher_fails_alone(photograph: Callable[..., Asked], output: Path) -> None:
    """Its edits fail, with the cause; its inversion and the pictures of the others are committed."""
    config = JobConfig()
    fetched = Fetch(config, Asking([BLUE]), FINGERPRINT, committed_in(str(output)), working_size)(
        [photograph("unpublishable"), photograph("good", 50)]
    )
    with held(str(output)) as fence:
        publish = HostilePublish(config, Identity(FINGERPRINT, "0"), History(), fence)
        parts = list(Engine(config, StandInEditor())(fetched))
        counts = [published_carefully(publish, part, str(output)) for part in parts]
    assert sum(count.inverted for count in counts) == 2
    assert (sum(count.edited for count in counts), sum(count.edits_failed for count in counts)) == (2, 2)
    failures = list(current_failures(str(output)))
    assert {(row["image_id"], row["code"]) for row in failures} == {("unpublishable", "publisher_died")}
    assert all("SIGSEGV" in row["message"] for row in table(output, "failures"))
    assert {place.split("/")[1] for place in results(output).edits} == {"good"}
