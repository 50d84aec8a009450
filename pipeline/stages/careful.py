"""Fetching in a process of its own, row by row where it must be: a picture that ends its decoder fails alone."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import partial
from operator import methodcaller

from pipeline.errors import RowError
from pipeline.stages.fetch import Fetch
from pipeline.stages.guards import InChild
from pipeline.stages.isolation import each
from pipeline.stages.limits import STORAGE_SECONDS
from pipeline.stages.rows import Asked, Fetched


def fetched_carefully(fetch: Fetch, rows: Sequence[Asked], row_seconds: float | None) -> list[Fetched]:
    """What `fetch` makes of rows over which its process died before; one that is to blame for it fails."""
    guard = InChild(partial(copy, fetch), row_seconds, STORAGE_SECONDS)
    try:
        found = each(lambda part: guard(methodcaller("each", part), len(part)), rows)
    finally:
        guard.close()
    return fetch.with_done_rows_as_one(
        [
            fetch.failed(row, RowError("decoder_died", str(result))) if isinstance(result, Exception) else result
            for row, result in zip(rows, found, strict=True)
        ]
    )
