"""Rows that end their process, hang, or lose the GPU."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from functools import partial
from operator import methodcaller
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipeline.errors import JobError, RowError
from pipeline.stages import guards
from pipeline.stages.attempts import MOST_DEATHS, attempt
from pipeline.stages.child import Child, ChildDiedError
from pipeline.stages.guards import InChild, InProcess, is_device_lost
from tests.stages.guarded import Batch, done
from tests.stages.victims import LOST, Victim, cannot_start, die_over, hang_with_the_lock


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """What the victims were asked."""
    return tmp_path / "log"


@pytest.fixture
def guard(log: Path) -> Iterator[InChild]:
    """A victim in a process of its own."""
    guard = InChild(partial(Victim, log), str(log), row_seconds=1.0)
    yield guard
    guard.close()


@pytest.mark.parametrize(
    ("bad", "code", "message", "tries"),
    [
        ("segfault", "worker_died", "SIGSEGV", 3),
        ("hang", "timed_out", "1 s", 2),
        ("lost", "device_lost", "CUDA error: an illegal memory access was encountered", 3),
    ],
)
def test_a_row_that_ends_its_process_fails_alone(
    guard: InChild, log: Path, bad: str, code: str, message: str, tries: int
) -> None:
    """It is tried with its batch, then by itself, and fails with its cause; its batch mates are done."""
    first, error, second = done(guard, ["a", bad, "b"])
    assert (first, second) == ("A", "B")
    assert isinstance(error, RowError)
    assert error.code == code
    assert message in str(error)
    assert error.retryable
    assert log.read_text().split("\n")[:-1] == [f"a {bad} b", "a", *[bad] * (tries - 1), "b"]


def test_what_a_row_raises_ends_nothing(guard: InChild, log: Path) -> None:
    """An exception is raised as it is, from the same process."""
    wrong, right = done(guard, ["wrong", "right"])
    assert (type(wrong), str(wrong), right) == (ValueError, "wrong", "RIGHT")
    assert log.read_text() == "wrong right\nwrong\nright\n"


def test_a_row_over_which_the_worker_is_killed_itself_fails_alone(log: Path) -> None:
    """As for want of memory: Ray ends the worker, not the process that it started, and begins the batch again."""
    rows = ["a", "orphan", "b"]
    worker = Child(partial(Batch, log))
    for _ in range(3):  # together, then twice alone
        with pytest.raises(ChildDiedError, match="SIGKILL"):
            worker.call(methodcaller("done", rows))
    first, error, second = worker.call(methodcaller("done", rows))
    worker.close()
    assert (first, second) == ("A", "B")
    assert isinstance(error, RowError)
    assert (error.code, str(error)[:21]) == ("worker_died", "2 workers were killed")
    assert log.read_text() == "a orphan b\na\norphan\na\norphan\na\nb\n"


def test_no_row_is_blamed_for_a_model_that_cannot_be_loaded() -> None:
    """A process that dies before it is asked anything ends the job."""
    with pytest.raises(JobError, match="died 3 times; it was killed by SIGKILL"):
        done(InChild(cannot_start, "no run", None), ["a", "b"])


def test_a_hung_native_call_ends_its_process() -> None:
    """A time limit needs nothing of Python, whose lock such a call may hold."""
    child = Child(dict)
    with pytest.raises(ChildDiedError, match="exit code 1"):
        child.call(hang_with_the_lock)
    assert child.call(len) == 0, "another process takes its place"
    child.close()


def test_a_process_ends_itself_when_torch_says_that_the_gpu_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no GPU here: the error is one of torch's, raised by hand."""

    def fail() -> None:
        raise torch.AcceleratorError(LOST)

    def end(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(guards, "os", SimpleNamespace(_exit=end))
    with pytest.raises(SystemExit):
        InProcess(SimpleNamespace(call=fail), None)(methodcaller("call"), ["a"])


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (torch.AcceleratorError(LOST), True),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, …)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (torch.AcceleratorError("CUDA error: out of memory"), False),
        (torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"), False),
        (ValueError("CUDA error: said by something else"), False),
    ],
)
def test_what_torch_says_of_a_lost_gpu(error: Exception, lost: bool) -> None:
    """A context that is broken for good is told from a lack of memory and from ordinary errors."""
    assert is_device_lost(error) == lost


def test_deaths_at_work_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever does the same work again learns of them, and gives up after too many; what ends leaves no trace."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    child = Child(dict)
    with pytest.raises(ChildDiedError):
        child.call(die_over)
    with attempt("run", "stage", ["a"]) as others, attempt("another run", "stage", ["a", "b"]) as elsewhere:
        assert (others, elsewhere) == (0, 0)
    (note,) = (tmp_path / f"relatent-attempts-{os.getuid()}").iterdir()
    with attempt("run", "stage", ["a", "b"]) as deaths:
        assert deaths == 1
    with attempt("run", "stage", ["a", "b"]) as deaths:
        assert deaths == 0
    note.write_bytes(b"." * MOST_DEATHS)
    with pytest.raises(JobError, match="20 workers died"), attempt("run", "stage", ["a", "b"]):
        pass
    assert not note.exists()
