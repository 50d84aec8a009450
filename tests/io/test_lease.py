"""Who may write into an output."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import JobError
from pipeline.io import lease
from pipeline.io.artifacts import write_rows
from pipeline.io.conditional import create_bytes
from pipeline.io.layout import lease_uri
from pipeline.io.lease import held
from pipeline.io.outcomes import committed_edits
from pipeline.io.storage import list_files, read_bytes, read_if_there, write_bytes
from tests.io.rows import edit_row, key_of


@pytest.fixture(params=["local", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An output folder on each storage."""
    return str(request.getfixturevalue("s3")) if request.param == "s3" else str(tmp_path / "out")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beats and patience short enough to wait for."""
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(lease, "_LOOK_SECONDS", 0.05)


def _elsewhere(output: str, token: int) -> None:
    """Let a lease look as if another machine had it, whose beats have ended."""
    holder = json.loads(read_bytes(lease_uri(output, token)))
    write_bytes(lease_uri(output, token), json.dumps({**holder, "machine": "other", "released": False}).encode())


def test_of_many_writers_one_creates_a_file(output: str) -> None:
    """A file is created once, by one of those who try at the same time, and is left as it is."""
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda i: create_bytes(f"{output}/x", b"%d" % i), range(4)))
    assert sum(done) == 1
    assert read_if_there(f"{output}/x") == b"%d" % done.index(True)
    assert read_if_there(f"{output}/y") is None


def test_a_second_run_is_refused_and_told_whose_the_first_is(output: str) -> None:
    """One line has host, process and time; once the first is over, the next one's number is higher."""
    with held(output) as first:
        with pytest.raises(JobError, match=f"another run is writing.*host .*, pid {os.getpid()}, since 20") as refused:
            held(output).__enter__()
        assert len(str(refused.value).splitlines()) == 1
        first.check()
    with held(output) as second:
        assert second.token == first.token + 1


@pytest.mark.parametrize("all_create_before_one_looks", [False, True])
def test_of_runs_that_begin_at_once_one_writes(
    output: str, monkeypatch: pytest.MonkeyPatch, *, all_create_before_one_looks: bool
) -> None:
    """Three see no lease, and create one each, a millisecond apart: one holds its own, the others are refused."""
    heads, looks, abreast, over = lease._heads, itertools.count(), threading.Barrier(3), threading.Event()

    def looked(output: str) -> list[int]:
        look = next(looks)
        if 3 <= look < 6 and all_create_before_one_looks:
            abreast.wait(10)
        found = heads(output)
        if look < 3:
            time.sleep(0.05 * abreast.wait(10))
        return found

    monkeypatch.setattr(lease, "_heads", looked)
    milliseconds = itertools.count()
    clock = SimpleNamespace(time=lambda: 1.79e9 + (next(milliseconds) + 0.5) / 1000)
    monkeypatch.setattr(lease, "time", SimpleNamespace(**vars(time) | vars(clock)))

    def run(_: int) -> str:
        try:
            with held(output) as fence:
                over.wait(20)
                fence.check()
                return "wrote"
        except JobError as error:
            return str(error)

    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(run, i) for i in range(3)]
        losers = [done.result() for done in itertools.islice(as_completed(runs), 2)]
        over.set()
    assert all("another run is writing there" in said for said in losers)
    assert [done.result() for done in runs].count("wrote") == 1


def test_an_interrupted_run_lets_go(tmp_path: Path) -> None:
    """Ctrl-C releases the lease: the next run does not wait."""
    with pytest.raises(KeyboardInterrupt), held(str(tmp_path)):
        raise KeyboardInterrupt
    holder = json.loads(read_bytes(list_files(str(tmp_path), ".json")[-1]))
    assert holder["released"]


def test_a_lease_without_beats_is_taken_over(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder elsewhere that shows no sign of life is waited for, then fenced off."""
    with held(output) as first:
        pass
    _elsewhere(output, first.token)
    began = time.monotonic()
    with held(output) as second:
        assert time.monotonic() - began >= lease.PATIENCE_SECONDS
        with pytest.raises(JobError, match="another run took over"):
            first.check()
        second.check()


def test_a_holder_that_awakes_stays_fenced_off(output: str) -> None:
    """Its beats end, it releases nothing of its successor's, and rows that slip through change nothing."""
    with held(output) as zombie:
        _elsewhere(output, zombie.token)
        (zombies_heart,) = [thread for thread in threading.enumerate() if thread.name == f"lease {zombie.token}"]
        assert create_bytes(lease_uri(output, zombie.token + 1), b"")
        zombies_heart.join(10)
        assert not zombies_heart.is_alive()
    successor = zombie.token + 1
    write_rows(output, "edits", [edit_row("a", edit_key=key_of("new"), fence=successor)])
    late = edit_row("a", edit_key=key_of("old"), fence=zombie.token)
    write_rows(output, "edits", [late | {"created_at": late["created_at"].replace(year=2099)}])
    write_rows(output, "edits", [edit_row("a", edit_key=key_of("new"), sha256=key_of("late"), fence=zombie.token)])
    index = committed_edits(output)
    assert key_of("new") in index
    assert key_of("old") not in index
    assert len(list_files(f"{output}/edits", ".parquet")) == 3
    assert read_if_there(lease_uri(output, successor)) == b""


@pytest.mark.parametrize("there", [False, True])
def test_what_a_zombie_sends_late_replaces_nothing_on_s3(s3: str, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    """It is suspended between its check and its request, and a later run writes meanwhile."""
    picture, name = f"{s3}/images/a.png", "replace_bytes" if there else "create_bytes"
    send = getattr(lease, name)
    with held(s3) as zombie:
        if there:
            zombie.write(picture, b"before")

        def late(uri: str, *data: Any) -> Any:
            monkeypatch.setattr(lease, name, send)
            create_bytes(lease_uri(s3, zombie.token + 1), b"")
            write_bytes(uri, b"of a later run")
            return send(uri, *data)

        monkeypatch.setattr(lease, name, late)
        with pytest.raises(JobError, match="took over"):
            zombie.write(picture, b"late")
    assert read_bytes(picture) == b"of a later run"


def test_a_dead_process_of_this_machine_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After kill −9 the same command can be given again at once."""
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 3600.0)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_hold, args=(str(tmp_path), ready))
    process.start()
    assert ready.wait(30)
    os.kill(process.pid or 0, signal.SIGKILL)
    while process.exitcode is None:  # a process that nobody waited for yet is dead, too
        with held(str(tmp_path)):
            break
    process.join()


def _hold(output: str, ready: Any) -> None:
    with held(output):
        ready.set()
        time.sleep(600)


def test_a_lease_that_was_never_written_out_is_taken_over(tmp_path: Path) -> None:
    """A holder that died between creating its file and filling it is a holder without beats."""
    create_bytes(lease_uri(str(tmp_path), 7), b"")
    with held(str(tmp_path)) as fence:
        assert fence.token == 8


def test_leases_that_are_gone_do_not_turn_time_back(tmp_path: Path) -> None:
    """Should somebody delete them, later numbers are still higher."""
    with held(str(tmp_path)) as first:
        pass
    Path(lease_uri(str(tmp_path), first.token)).unlink()
    with held(str(tmp_path)) as second:
        assert second.token > first.token


def test_an_outage_does_not_stop_the_heart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A beat that cannot be written is made up for by the next."""
    beats: Iterator[Exception | None] = iter([lease.StorageError("no answer")])

    def unsteady(uri: str, data: bytes) -> None:
        if error := next(beats, None):
            raise error
        write_bytes(uri, data)

    monkeypatch.setattr(lease, "write_bytes", unsteady)
    with held(str(tmp_path)) as fence:
        deadline = time.monotonic() + 30
        while json.loads(read_bytes(lease_uri(str(tmp_path), fence.token)))["beats"] < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_an_outage_is_no_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that waits for another does not take the time in which neither could reach the storage for its end."""
    over, looks = threading.Event(), []
    output = str(tmp_path)

    def read(uri: str) -> bytes | None:
        looks.append(threading.current_thread())
        if looks.count(threading.main_thread()) != 1:  # it begins after the first look
            over.wait()
        return read_if_there(uri)

    def write(uri: str, data: bytes) -> None:
        if not over.is_set():
            over.wait()
            time.sleep(0.5)  # it notices later than the other
        write_bytes(uri, data)

    with held(output):
        monkeypatch.setattr(lease, "read_if_there", read)
        monkeypatch.setattr(lease, "write_bytes", write)
        threading.Timer(1.5 * lease.PATIENCE_SECONDS, over.set).start()
        with pytest.raises(JobError, match="another run is writing"):
            held(output).__enter__()
