"""Work that goes on while its results are handed on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from itertools import islice
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final, TypeVar

_T = TypeVar("_T")

# A signal that comes just before a thread waits for a lock is only heard once it stops waiting.
_SIGNALS_HEARD_SECONDS: Final = 1.0


class OwnThread:
    """A thread that makes what it is asked for, one thing after another, while who asked does something else.

    An actor has one for all that it computes. OpenMP keeps a team of threads for each thread that ever computed; once
    the teams together outnumber the cores, they go to sleep at every barrier, and a model on two cores takes a fifth
    longer. A process that is told to end does not wait for it.
    """

    def __init__(self) -> None:
        self._asked: SimpleQueue[Callable[[], None]] = SimpleQueue()
        Thread(target=self._work, daemon=True).start()

    def begin(self, make: Callable[[], _T]) -> Future[_T]:
        """What is made, or the error that is raised, in the making."""
        made: Future[_T] = Future()
        self._asked.put(lambda: _fulfil(made, make))
        return made

    def one_ahead(self, items: Iterator[_T], *, until: Callable[[], bool]) -> Iterator[_T]:
        """Each of the items, while the next is made. What is in the making when `until` says so is the last."""
        making: Future[list[_T]] | None = self.begin(lambda: list(islice(items, 1)))
        while making is not None and (made := result_of(making)):
            making = None if until() else self.begin(lambda: list(islice(items, 1)))
            yield made[0]

    def _work(self) -> None:
        while True:
            self._asked.get()()


def result_of(making: Future[_T]) -> _T:
    """What was made, or the error that was raised; signals are heard meanwhile."""
    while not wait([making], _SIGNALS_HEARD_SECONDS).done:
        pass
    return making.result()


def _fulfil(made: Future[Any], make: Callable[[], Any]) -> None:
    try:
        made.set_result(make())
    except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
        made.set_exception(error)
