"""An actor's model works on while a part of its results is handed on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.cluster.ahead import one_ahead


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    """One thread."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        yield executor


def _never() -> bool:
    return False


def test_the_next_is_made_while_one_is_handed_on(executor: ThreadPoolExecutor) -> None:
    """Nobody has asked for the second when it is begun, and the third waits until the second is handed on."""
    begun = [threading.Event() for _ in range(3)]

    def parts() -> Iterator[int]:
        for i, event in enumerate(begun):
            event.set()
            yield i

    handed_on = one_ahead(parts(), executor, until=_never)
    assert next(handed_on) == 0
    assert begun[1].wait(10)
    executor.submit(lambda: None).result()  # whatever was begun is done
    assert not begun[2].is_set()
    assert list(handed_on) == [1, 2]


def test_what_is_in_the_works_at_the_end_is_handed_on(executor: ThreadPoolExecutor) -> None:
    """The second was begun before the end was known; the third is never made."""
    made, over = list[int](), threading.Event()
    handed_on = one_ahead((made.append(i) or i for i in range(9)), executor, until=over.is_set)
    first = next(handed_on)
    over.set()
    assert [first, *handed_on] == made == [0, 1]


def test_nothing_is_nothing(executor: ThreadPoolExecutor) -> None:
    """No item, none handed on."""
    assert list(one_ahead(iter(()), executor, until=_never)) == []


def test_an_error_comes_after_what_was_made_before_it(executor: ThreadPoolExecutor) -> None:
    """As it does from the items themselves."""

    def parts() -> Iterator[int]:
        yield 0
        raise ValueError("the second")

    handed_on = one_ahead(parts(), executor, until=_never)
    assert next(handed_on) == 0
    with pytest.raises(ValueError, match="the second"):
        next(handed_on)


def test_one_who_stops_early_waits_for_what_was_begun(executor: ThreadPoolExecutor) -> None:
    """So that a model is never left at work behind its actor's back."""
    going, done = threading.Event(), list[int]()

    def parts() -> Iterator[int]:
        yield 0
        going.wait(10)
        done.append(1)
        yield 1

    handed_on = one_ahead(parts(), executor, until=_never)
    next(handed_on)
    going.set()
    handed_on.close()
    assert done == [1]
