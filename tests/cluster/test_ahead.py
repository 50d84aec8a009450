"""An actor's model works on while a part of its results is handed on."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from pipeline.cluster.ahead import OwnThread


def _never() -> bool:
    return False


def test_the_next_is_made_while_one_is_handed_on() -> None:
    """Nobody has asked for the second when it is begun, and the third waits until the second is handed on."""
    begun = [threading.Event() for _ in range(3)]

    def parts() -> Iterator[int]:
        for i, event in enumerate(begun):
            event.set()
            yield i

    handed_on = OwnThread().one_ahead(parts(), until=_never)
    assert next(handed_on) == 0
    assert begun[1].wait(10)
    assert not begun[2].wait(0.2)
    assert list(handed_on) == [1, 2]


def test_what_is_in_the_works_at_the_end_is_handed_on() -> None:
    """The second was begun before the end was known; the third is never made."""
    made, over = list[int](), threading.Event()
    handed_on = OwnThread().one_ahead((made.append(i) or i for i in range(9)), until=over.is_set)
    first = next(handed_on)
    over.set()
    assert [first, *handed_on] == made == [0, 1]


def test_one_thread_makes_everything_and_not_the_one_that_asks() -> None:
    """Of threads that compute each has a team of OpenMP's, and teams that outnumber the cores go to sleep."""
    thread = OwnThread()
    made_in = {thread.begin(threading.get_ident).result()}
    for _ in range(2):  # batches
        made_in |= set(thread.one_ahead((threading.get_ident() for _ in range(3)), until=_never))
    assert len(made_in) == 1
    assert threading.get_ident() not in made_in


def test_nothing_is_nothing() -> None:
    """No item, none handed on."""
    assert list(OwnThread().one_ahead(iter(()), until=_never)) == []


def test_an_error_comes_after_what_was_made_before_it() -> None:
    """As it does from the items themselves."""

    def parts() -> Iterator[int]:
        yield 0
        raise ValueError("the second")

    handed_on = OwnThread().one_ahead(parts(), until=_never)
    assert next(handed_on) == 0
    with pytest.raises(ValueError, match="the second"):
        next(handed_on)


def test_a_process_that_is_told_to_end_does_not_wait() -> None:
    """Whatever is in the works: it may take minutes."""
    code = """
import os, signal, sys, time
from pipeline.cluster.ahead import OwnThread

def parts():
    yield 0
    os.write(1, b"begun\\n")  # a buffer that a thread holds ends the process otherwise
    time.sleep(600)
    yield 1

signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
for part in OwnThread().one_ahead(parts(), until=lambda: False):
    pass
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.terminate()
        assert process.wait(60) == 7
