"""Work that goes on while its results are handed on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from itertools import islice
from threading import Thread
from typing import TypeVar

_T = TypeVar("_T")


def one_ahead(items: Iterator[_T], *, until: Callable[[], bool]) -> Iterator[_T]:
    """Each of the items, while a thread makes the next. What it makes when `until` says so is the last.

    Who stops early leaves the thread behind: a process that is told to end does not wait for it.
    """
    making: Future[list[_T]] | None = _begun(items)
    while making is not None and (made := making.result()):
        making = None if until() else _begun(items)
        yield made[0]


def _begun(items: Iterator[_T]) -> Future[list[_T]]:
    """The next item, or none, in the making."""
    made: Future[list[_T]] = Future()

    def make() -> None:
        try:
            made.set_result(list(islice(items, 1)))
        except BaseException as error:  # noqa: BLE001 - it is raised where the item is asked for
            made.set_exception(error)

    Thread(target=make, daemon=True).start()
    return made
