"""How a plan is cut into what tasks fetch."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipeline.cluster import graph
from pipeline.config import JobConfig


@pytest.mark.parametrize(
    ("rows", "batch_size", "blocks", "largest"),
    [
        (0, 32, 0, 0),
        (1, 32, 1, 1),
        (200, 32, 7, 32),  # few rows: a batch to a task, so that there are several
        (10_000, 32, 35, 288),
        (100_000, 32, 49, 2048),
        (100_000, 3000, 34, 3000),
    ],
)
def test_a_plan_is_cut_into_whole_batches(rows: int, batch_size: int, blocks: int, largest: int) -> None:
    """All rows are there in their order; a block is of whole batches, many where there are many rows."""
    asked = pa.table({"image_id": pa.array(range(rows))})
    cut = graph._blocks(asked, batch_size)
    assert (len(cut), max(map(len, cut), default=0)) == (blocks, largest)
    assert all(len(block) % batch_size == 0 for block in cut[:-1])
    assert pa.concat_tables([asked.schema.empty_table(), *cut]).equals(asked)


@pytest.mark.parametrize(
    ("rows", "actors", "batch_size"),
    [
        (0, 2, 32),
        (20, 8, 16),
        (32, 2, 16),
        (36, 1, 32),  # two of 18 would leave the slots nearly empty twice
        (40, 2, 16),
        (64, 2, 32),
        (72, 2, 32),
        (96, 2, 16),  # else one has 64 of them
        (1000, 3, 32),  # 352, which is 3 % more than 344
        (100_000, 8, 32),
    ],
)
def test_a_plan_is_shared_by_all_actors(rows: int, actors: int, batch_size: int) -> None:
    """The last to end ends as soon as batches that fill slots allow, and no batch is larger than the job says."""
    assert graph.shared_batch_size(rows, actors, JobConfig(batch_size=32, slots=16)) == batch_size
    assert graph.shared_batch_size(rows, actors, JobConfig(batch_size=3, slots=16)) == 3


def test_a_batch_size_between_fills_is_taken_where_nothing_is_gained_by_another() -> None:
    """Else it is rounded down to what fills the slots."""
    sizes = [graph.shared_batch_size(rows, 2, JobConfig(batch_size=24, slots=16)) for rows in (1000, 60)]
    assert sizes == [24, 16]
