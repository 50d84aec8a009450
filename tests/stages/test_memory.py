"""A run without work reads no photograph; with and without what the output remembers the results are the same."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from pipeline.asking import Asking
from pipeline.io.images import encode_png
from pipeline.io.sources import Memory
from pipeline.io.transfers import transfers
from pipeline.keys import sha256_hex
from pipeline.records import PromptRow
from pipeline.stages.fetch import Fetch
from pipeline.stages.rows import Asked
from tests.results import results
from tests.small_job import table
from tests.stages.conftest import FINGERPRINT, Job, StandInEditor, committed_in
from tests.stages.sizes import working_size

BLUE = PromptRow(edit_id="blue", prompt="a blue photo", strength=(0.0, 1.0))
GREEN = PromptRow(edit_id="green", prompt="a green photo")
Photograph = Callable[..., Asked]


@contextmanager
def reading() -> Iterator[list[int]]:
    """How many bytes of whole files are read while the context lasts."""
    before, read = transfers()["in"], [0]
    yield read
    read[0] = transfers()["in"] - before


def settled(*rows: Asked) -> list[Asked]:
    """Photographs, and masks, that were written long ago."""
    for row in rows:
        for uri in (row["image_uri"], row["mask_uri"]):
            if uri and Path(uri).exists():
                os.utime(uri, (0, 0))
    return list(rows)


def size(*rows: Asked) -> int:
    """How many bytes the photographs have."""
    return sum(Path(row["image_uri"]).stat().st_size for row in rows)


@pytest.fixture
def mask(tmp_path: Path) -> str:
    """A mask for the photographs."""
    path = tmp_path / "mask.png"
    path.write_bytes(encode_png(np.full((32, 48, 3), 255, np.uint8), None, None))
    return str(path)


def test_a_run_without_work_reads_nothing(output: Path, photograph: Photograph, mask: str) -> None:
    """Neither images nor masks, nor an image that failed for good; of a grown manifest only what is new is read."""
    bad = photograph("bad")
    Path(bad["image_uri"]).write_bytes(b"not an image")
    asked = settled(photograph("a"), photograph("b", 50, mask_uri=mask), bad)
    job = Job(output, StandInEditor(), [BLUE])
    first = job.run(asked)
    assert {row["uri"] for row in table(output, "sources")} == {mask, *(row["image_uri"] for row in asked)}
    with reading() as read:
        counts = job.run(asked)
    assert (read, counts.reused, counts.kept, counts.codes) == ([0], 2, first.edited, first.codes)
    new = settled(photograph("c", 7))
    with reading() as read:
        assert job.run([*asked, *new]).inverted == 1
    assert read == [size(*new)]


def test_new_bytes_are_inverted_again_and_a_new_prompt_only_edits(output: Path, photograph: Photograph) -> None:
    """Of the same length and time, too; a new prompt reads what it composites onto."""
    asked = settled(photograph("a"), photograph("b", 50))
    Job(output, StandInEditor(), [BLUE]).run(asked)
    with reading() as read:
        counts = Job(output, StandInEditor(), [BLUE, GREEN]).run(asked)
    assert (read, counts.inverted, counts.reused, counts.edited, counts.kept) == ([size(*asked)], 0, 2, 2, 4)
    length = size(asked[0])
    settled(photograph("a", 101))
    assert size(asked[0]) == length
    counts = Job(output, StandInEditor(), [BLUE, GREEN]).run(asked)
    assert (counts.inverted, counts.reused, counts.edited, counts.kept) == (1, 1, 3, 3)


def test_outputs_are_the_same_without_the_memory(output: Path, photograph: Photograph, tmp_path: Path) -> None:
    """Whatever changes between runs: bytes, prompts, a file that is gone, one that is back."""
    asked = settled(photograph("a"), photograph("b", 50), photograph("c", 7))
    lost = Path(asked[2]["image_uri"])
    data = lost.read_bytes()
    steps: tuple[tuple[Callable[[], object], tuple[PromptRow, ...]], ...] = (
        (lambda: None, (BLUE,)),
        (lambda: settled(photograph("a", 90)), (BLUE,)),
        (lost.unlink, (BLUE, GREEN)),
        (lambda: (lost.write_bytes(data), settled(*asked)), (GREEN,)),
    )
    without = tmp_path / "without"
    for change, prompts in steps:
        change()
        shutil.rmtree(without / "sources", ignore_errors=True)
        counts = [Job(folder, StandInEditor(), prompts).run(asked) for folder in (output, without)]
        assert counts[0] == counts[1]
        assert results(output) == results(without)


def test_a_file_that_changes_after_it_was_looked_at_is_read_as_it_is(
    output: Path, photograph: Photograph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is remembered of it is then not believed: the new bytes are inverted."""
    asked = settled(photograph("a"))
    Job(output, StandInEditor(), [BLUE]).run(asked)
    stale = dict.fromkeys([asked[0]["image_uri"]], sha256_hex(Path(asked[0]["image_uri"]).read_bytes()))
    photograph("a", 90)
    monkeypatch.setattr(Memory, "recall", lambda self, uris: stale)
    counts = Job(output, StandInEditor(), [BLUE, GREEN]).run(asked)
    assert (counts.inverted, counts.edited, counts.failures) == (1, 3, 0)
    new = sha256_hex(Path(asked[0]["image_uri"]).read_bytes())
    assert {row["image_sha256"] for row in table(output, "inversions")} == {new, *stale.values()}


def test_what_needs_nothing_is_found_without_reading(output: Path, photograph: Photograph) -> None:
    """Of what was done before one row is left, for all; what is new, changed or failed before is for fetching."""
    gone = Asked(image_id="gone", image_uri="/nowhere.png", source_prompt=None, mask_uri=None)
    rows = settled(*map(photograph, "abc"))
    job = Job(output, StandInEditor(), [BLUE])
    job.run([*rows, gone])
    new, changed = settled(photograph("d"), photograph("b", shade=7))
    fetch = Fetch(job.config, Asking(job.prompts), FINGERPRINT, committed_in(job.output), working_size)
    with reading() as read:
        done, others = fetch.done([rows[0], new, changed, rows[2], gone])
    assert read == [0]
    assert [(row["image_id"], row["reused"], row["kept"]) for row in done] == [("a", 2, 4)]
    assert [row["image_id"] for row in others] == ["d", "b", "gone"]
