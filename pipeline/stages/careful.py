"""Fetching and publishing in a process apart, row by row where it must be: a picture that ends it fails alone."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import partial
from operator import methodcaller
from typing import Any, TypeVar

from pipeline.counts import Counts
from pipeline.errors import RowError
from pipeline.stages.fetch import Fetch
from pipeline.stages.guards import InChild
from pipeline.stages.isolation import each
from pipeline.stages.limits import STORAGE_SECONDS
from pipeline.stages.publish import Publish, unwritten
from pipeline.stages.rows import Asked, Fetched, Made

_Row = TypeVar("_Row")


def fetched_carefully(fetch: Fetch, rows: Sequence[Asked], row_seconds: float | None) -> list[Fetched]:
    """What `fetch` makes of rows over which its process died before; one that is to blame for it fails."""
    found = _apart(fetch, "each", rows, row_seconds)
    return fetch.with_done_rows_as_one(
        [
            fetch.failed(row, RowError("decoder_died", str(result))) if isinstance(result, Exception) else result
            for row, result in zip(rows, found, strict=True)
        ]
    )


def published_carefully(publish: Publish, rows: Sequence[Made], row_seconds: float | None) -> Counts:
    """Publish rows over whose pictures its process died before; one that is to blame for it fails with its edits."""
    publish.withdraw(rows)
    written = _apart(publish, "write", rows, row_seconds)
    parts = [
        unwritten(row, RowError("publisher_died", str(result))) if isinstance(result, Exception) else result
        for row, result in zip(rows, written, strict=True)
    ]
    return publish.commit(rows, parts)


def _apart(stage: Any, method: str, rows: Sequence[_Row], row_seconds: float | None) -> list[Any]:
    """What a stage's method makes of rows in another process, or the exception of each that it ends alone."""
    guard = InChild(partial(copy, stage), row_seconds, STORAGE_SECONDS)
    try:
        return each(lambda part: guard(methodcaller(method, part), len(part)), rows)
    finally:
        guard.close()
