"""Choosing a few of many, the same few every time."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence

import pyarrow as pa


def sample(names: Sequence[str], size: int) -> list[int]:
    """Indexes of `size` names at random, ascending; of all where there are not more.

    The names whose hashes are smallest. So a sample does not depend on the order of the names, a larger one contains a
    smaller one, and names that are added later take the place of few.
    """
    return sorted(heapq.nsmallest(size, range(len(names)), key=lambda i: hashlib.sha256(names[i].encode()).digest()))


def chosen_rows(table: pa.Table, limit: int | None, size: int | None) -> pa.Table:
    """The first `limit` rows of a table of images, and of these a sample of `size`; None: all."""
    if limit is not None:
        table = table.slice(0, limit)
    if size is None or size >= len(table):
        return table
    return table.take(pa.array(sample(table["image_id"].to_pylist(), size), pa.int64()))
