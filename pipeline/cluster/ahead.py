"""Work that goes on while its results are handed on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, wait
from itertools import islice
from typing import TypeVar

_T = TypeVar("_T")


def one_ahead(items: Iterator[_T], executor: Executor, *, until: Callable[[], bool]) -> Iterator[_T]:
    """Each of the items, while `executor` makes the next. What it makes when `until` says so is the last."""

    def more() -> Future[list[_T]]:
        return executor.submit(lambda: list(islice(items, 1)))

    making: Future[list[_T]] | None = more()
    try:
        while making is not None and (made := making.result()):
            making = None if until() else more()
            yield made[0]
    finally:
        if making is not None:
            wait([making])
