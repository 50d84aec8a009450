"""The stages in one process, and photographs to try them on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.asking import Asking
from pipeline.config import JobConfig
from pipeline.counts import Counts
from pipeline.io.images import encode_png
from pipeline.io.lease import Fence, held
from pipeline.io.outcomes import committed_edits, committed_inversions, current_failures
from pipeline.io.sources import remembered
from pipeline.records import PromptRow
from pipeline.stages.engine import Engine
from pipeline.stages.fetch import Committed, Fetch
from pipeline.stages.history import History
from pipeline.stages.publish import Identity, Publish
from pipeline.stages.rows import Asked, Fetched, Made, passed_on
from tests.stages.sizes import working_size
from tests.stages.stand_in import StandInEditor

FINGERPRINT = "f" * 64


def committed_in(output: str) -> Committed:
    """What an output holds."""
    return Committed(
        committed_inversions(output),
        committed_edits(output),
        History(current_failures(output)),
        remembered(output),
    )


def parts_of(fetched: Sequence[Fetched], engine: Engine) -> Iterator[list[Made]]:
    """What an engine's actor hands on of a batch."""
    if idle := [passed_on(row) for row in fetched if row["status"] != "work"]:
        yield idle
    if work := [row for row in fetched if row["status"] == "work"]:
        yield from engine(work)


class Job:
    """The three stages in one process, over one output folder."""

    def __init__(self, output: Path | str, editor: StandInEditor, prompts: Sequence[PromptRow], **config: Any) -> None:
        self.output = str(output)
        self.editor = editor
        self.prompts = prompts
        self.config = JobConfig(**config)
        self.insist = False

    def fetch(self, asked: Sequence[Asked]) -> list[Any]:
        committed = replace(committed_in(self.output), history=self.history())
        return Fetch(self.config, Asking(self.prompts), FINGERPRINT, committed, working_size)(asked)

    def history(self) -> History:
        return History(current_failures(self.output), insist=self.insist)

    def run(self, asked: Sequence[Asked]) -> Any:
        """Fetch, engine and publish once over; the counts of all rows."""
        with held(self.output) as fence:
            return self.work(asked, fence)

    def work(self, asked: Sequence[Asked], fence: Fence) -> Counts:
        """The same under a lease that is held already."""
        publish = Publish(self.config, Identity(FINGERPRINT, "0"), self.history(), fence)
        parts = list(parts_of(self.fetch(asked), Engine(self.config, self.editor)))
        return sum(map(publish, parts), Counts())


@pytest.fixture
def photograph(tmp_path: Path) -> Callable[..., Asked]:
    """Make a photograph and its row of the plan: a quarter of one shade, so that its corner has it at any size."""

    def make(name: str, shade: int = 100, size: tuple[int, int] = (48, 32), **columns: Any) -> Asked:
        path = tmp_path / f"{name}.png"
        pixels = np.full((size[1], size[0], 3), shade, np.uint8)
        pixels[::4, ::4] = 255 - shade
        pixels[: size[1] // 2, : size[0] // 2] = shade
        path.write_bytes(encode_png(pixels, None, None))
        row = Asked(image_id=name, image_uri=str(path), source_prompt="a photo", mask_uri=None)
        row.update(columns)  # type: ignore[typeddict-item]
        return row

    return make


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Where a job's results go."""
    return tmp_path / "out"
