"""Batches fail row by row."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from pipeline.errors import JobError, RowError
from pipeline.stages.isolation import each


def test_a_good_batch_is_one_call() -> None:
    """What works for all is done for all at once."""
    calls: list[int] = []

    def double(items: Sequence[int]) -> list[int]:
        calls.append(len(items))
        return [2 * item for item in items]

    assert each(double, [1, 2, 3]) == [2, 4, 6]
    assert calls == [3]


def test_a_bad_row_costs_itself() -> None:
    """An unexpected error takes the batch's rows one by one, and stands in the bad one's place."""

    def refuse_two(items: Sequence[int]) -> list[int]:
        if 2 in items:
            raise ValueError("two")
        return list(items)

    first, second, third = each(refuse_two, [1, 2, 3])
    assert (first, third) == (1, 3)
    assert isinstance(second, ValueError)


def test_a_row_that_never_fits_fails_as_out_of_memory() -> None:
    """Where a single row is too much, its failure says so and is retryable."""

    def never(items: Sequence[int]) -> list[int]:
        raise torch.OutOfMemoryError("no room")

    (error,) = each(never, [1])
    assert isinstance(error, RowError)
    assert error.code == "out_of_memory"
    assert error.retryable


def test_a_job_error_ends_the_job() -> None:
    """What is wrong with the whole job is not blamed on rows."""

    def wrong(items: Sequence[int]) -> list[int]:
        raise JobError("no such method")

    with pytest.raises(JobError, match="no such method"):
        each(wrong, [1, 2])
