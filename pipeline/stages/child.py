"""Calls in a process of its own, which may die, hang or be killed without harm to whoever calls."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Final, TypeVar

_T = TypeVar("_T")

_MAIN: Final = "import sys; from pipeline.stages.child import serve; serve(int(sys.argv[1]))"


class ChildDiedError(Exception):
    """The process ended over a call; the text says by what."""


class ChildTimedOutError(Exception):
    """The process was killed because a call took too long."""


class Child:
    """An object in a process of its own. The process starts with the first call, and again with the next after its end.

    Args:
        load: makes the object, there; picklable, like all that goes to and fro.
    """

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection[Any, Any] | None = None

    def start(self) -> None:
        """Start the process and make its object, where that has not been done.

        Raises:
            ChildDiedError: it ended over it.
            Exception: what making the object raised.
        """
        if self._pipe is not None:
            return
        # Nobody else has the other end: when this process ends, however it does, the child's standard input does.
        self._pipe, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - Python itself
                [sys.executable, "-c", _MAIN, str(theirs.fileno())],
                stdin=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                start_new_session=True,  # Ctrl-C is for whoever started this process
            )
        try:
            self._ask(self._load, None)
        except ChildDiedError:
            raise
        except Exception:
            self.close()
            raise

    def call(self, action: Callable[[Any], _T], seconds: float | None = None) -> _T:
        """The result of an action on the object, such as `operator.methodcaller` makes one.

        Raises:
            ChildDiedError: the process ended over it.
            ChildTimedOutError: it took more than `seconds`.
            Exception: what the action raised.
        """
        self.start()
        result: _T = self._ask(action, seconds)
        return result

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is None or self._pipe is None:
            return
        self._process.kill()
        self._process.communicate()
        self._pipe.close()
        self._process = self._pipe = None

    def _ask(self, question: Any, seconds: float | None) -> Any:
        assert self._pipe is not None
        message = _pickled(question)
        try:
            self._pipe.send_bytes(message)
            in_time = self._pipe.poll(seconds)
            answer = self._pipe.recv_bytes() if in_time else b""
        except (EOFError, OSError):
            raise ChildDiedError(self._end()) from None
        if not in_time:
            self.close()
            raise ChildTimedOutError(f"took longer than {seconds:g} s")
        result, error = pickle.loads(answer)  # noqa: S301 - our own process wrote it
        if error is not None:
            raise error
        return result

    def _end(self) -> str:
        """How the process ended."""
        assert self._process is not None
        process = self._process
        try:
            code = process.wait(timeout=10)
        except subprocess.TimeoutExpired:  # it closed its pipe, and lives
            code = None
        self.close()
        if code is None or code >= 0:
            return f"ended with exit code {code}"
        return f"was killed by {signal.Signals(-code).name}"


def serve(descriptor: int) -> None:
    """The process's own part: make the object, then answer calls until the pipe is closed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pipe: Connection[Any, Any] = Connection(descriptor)
    made: Any = None
    while True:
        try:
            question = pickle.loads(pipe.recv_bytes())  # noqa: S301 - the process that started this one wrote it
        except EOFError:
            return
        try:
            if made is None:
                made, result = question(), None
            else:
                result = question(made)
            answer = _pickled((result, None))
        except Exception as error:  # noqa: BLE001 - it is raised where the call was made
            answer = _pickled((None, _portable(error)))
        pipe.send_bytes(answer)


def _end_with_parent() -> None:
    os.read(0, 1)  # not sys.stdin, whose lock would be held when the interpreter ends first
    os._exit(1)


def _pickled(value: Any) -> bytes:
    """Plain pickle: multiprocessing's own moves tensors as shared memory, which dies with its process."""
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def _portable(error: Exception) -> Exception:
    try:
        return pickle.loads(_pickled(error))  # type: ignore[no-any-return] # noqa: S301 - it was written just now
    except Exception:  # noqa: BLE001 - an exception of a library may need more than its text to be made
        return RuntimeError(f"{type(error).__name__}: {error}")
