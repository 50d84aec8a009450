"""Fetching and publishing in a process apart, row by row where it must be: a picture that ends it fails alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from operator import itemgetter, methodcaller
from typing import Any, TypeVar

from pipeline.counts import Counts
from pipeline.errors import RowError
from pipeline.stages.fetch import Fetch
from pipeline.stages.guards import InChild
from pipeline.stages.isolation import each
from pipeline.stages.limits import PICTURE_SECONDS, STORAGE_SECONDS
from pipeline.stages.publish import Publish, unwritten
from pipeline.stages.rows import Asked, Fetched, Made, name_of

_Row = TypeVar("_Row")


def fetched_carefully(fetch: Fetch, rows: Sequence[Asked], run: str) -> list[Fetched]:
    """What `fetch` makes of rows over which its process died before; one that is to blame for it fails."""
    found = _apart(fetch, "each", rows, itemgetter("image_id"), run)
    return fetch.with_done_rows_as_one(
        [
            fetch.failed(row, RowError("decoder_died", str(result))) if isinstance(result, Exception) else result
            for row, result in zip(rows, found, strict=True)
        ]
    )


def published_carefully(publish: Publish, rows: Sequence[Made], run: str) -> Counts:
    """Publish rows over whose pictures its process died before; one that is to blame for it fails with its edits."""
    publish.withdraw(rows)
    written = _apart(publish, "write", rows, name_of, run)
    parts = [
        unwritten(row, RowError("publisher_died", str(result))) if isinstance(result, Exception) else result
        for row, result in zip(rows, written, strict=True)
    ]
    return publish.commit(rows, parts)


def _apart(stage: Any, method: str, rows: Sequence[_Row], name: Callable[[_Row], str], run: str) -> list[Any]:
    """What a stage's method makes of rows in another process, or the exception of each that it ends alone."""
    guard = InChild(partial(copy, stage), run, PICTURE_SECONDS, STORAGE_SECONDS)

    def ask(part: Sequence[_Row]) -> Sequence[Any]:
        return list(guard(methodcaller(method, part), [f"{method} {name(row)}" for row in part]))

    try:
        return each(ask, rows)
    finally:
        guard.close()
