"""Kill −9 at a step of a commit, with nothing of it in the code that is killed.

Python tells an audit hook of every file that is opened and of every rename, before it happens. From these the hook
knows where a process is in the commit protocol (infra/decisions/0012-commit-protocol.md). On object storage the proxy
before it knows, from the PUTs. What to kill where is said by the names of files in a folder, which the proxy and all
processes of a job look at; each is used once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, Final
from urllib.parse import urlsplit

# Before anything is written; written under another name, or half-way to the object storage; under its own name.
MOMENTS: Final = ("before", "within", "after")
TABLES: Final = ("withdrawals", "inversions", "edits", "failures", "sources")
PUBLISHED: Final = ("picture", *TABLES)
# Every step of a commit, in one line each. A lease is created by one step; what is written to it later are its beats
# and that it is released.
KILL_POINTS: Final = (
    "before lease",
    *(f"{moment} {what}" for what in (*PUBLISHED, "start", "run", "beat") for moment in MOMENTS),
)
# The same on object storage, where a lease is created by one PUT as all else is, of which its maker may never hear.
# That half a PUT is nothing does not depend on what is put.
PUT_KILL_POINTS: Final = (
    *(f"{moment} {what}" for what in ("lease", *PUBLISHED, "start", "run", "beat") for moment in ("before", "after")),
    *(f"within {what}" for what in ("lease", "picture", "edits")),
)
# What upkeep does beside writing: before the first file is removed, and before the second.
REMOVALS: Final = ("removing", "between")

ENGINE_ACTOR: Final = "ray::MapWorker(MapBatches(_EngineActor"
PUBLISH_WORKER: Final = "ray::MapBatches(run)"

_FOLDER: Final = "RELATENT_TEST_KILLS"
_STATE: Final = threading.local()
_REMOVED: Final[Counter[str]] = Counter()


def arm(folder: Path, *kills: str) -> None:
    """Ask for kills, each `moment what victim`; those of earlier are forgotten.

    Victims are the process that does the step (`self`), the job's `driver`, the engine actors (`actor`), and the whole
    `node` of that process.
    """
    folder.mkdir(exist_ok=True)
    for name in pending(folder):
        (folder / name).unlink()
    for number, kill in enumerate(kills):
        (folder / f"{kill} {number}").touch()


def pending(folder: Path) -> list[str]:
    """Kills that have not come to pass."""
    return [name for name in _names(folder) if name.split(" ")[0] in (*MOMENTS, *REMOVALS)]


def install(folder: Path) -> None:
    """Make this process die, or kill, where the folder says so."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event not in {"open", "os.rename", "os.remove"} or getattr(_STATE, "busy", False):
            return
        _STATE.busy = True  # what the hook does is not to be looked at
        try:
            point = _point(event, args)
            if point is not None:
                _strike(folder, point)
        finally:
            _STATE.busy = False

    sys.addaudithook(hook)


def kill_at_puts(folder: Path) -> Callable[[str, str, bytes], None]:
    """A proxy's `on_put`: the process that `be_the_driver` named dies where the folder says so, whoever asks."""

    def on_put(moment: str, path: str, body: bytes) -> None:
        if _claimed(folder, f"{moment} {_put(PurePosixPath(urlsplit(path).path), body)}"):
            kill(_driver(folder))
            raise ConnectionAbortedError  # and with it goes what it was sending

    return on_put


def be_the_driver(folder: Path) -> None:
    """Let this process be the one that dies as a job's driver."""
    (folder / "driver").write_text(str(os.getpid()), encoding="ascii")


def _driver(folder: Path) -> int:
    return int((folder / "driver").read_text(encoding="ascii"))


def install_if_asked() -> None:
    """`install`, in processes of which it is asked by the environment; they can then be found as `ray_processes`."""
    if folder := os.environ.get(_FOLDER):
        (Path(folder) / "processes").mkdir(parents=True, exist_ok=True)
        (Path(folder) / "processes" / str(os.getpid())).touch()
        install(Path(folder))


def environment(folder: Path) -> dict[str, str]:
    """What makes every Python process that inherits it, Ray's workers too, look at the folder."""
    paths = [str(Path(__file__).parent / "site"), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return {_FOLDER: str(folder), "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _point(event: str, args: tuple[Any, ...]) -> str | None:
    if event == "os.rename":
        source, target = str(args[0]), Path(str(args[1]))
        if not source.endswith(".tmp"):
            return None
        _STATE.renamed = target
        return f"within {_written(target)}"
    if event == "os.remove":
        return _removal(Path(str(args[0])))
    path, mode = Path(str(args[0])), args[1] or ""
    if path.suffix == ".tmp":
        if path.parent.joinpath("leases").is_dir():
            _STATE.records = getattr(_STATE, "records", 0) + 1
        return f"before {_written(path)}"
    renamed = getattr(_STATE, "renamed", None)
    if renamed is not None and path == renamed.parent:  # it is opened to be flushed
        _STATE.renamed = None
        return f"after {_written(renamed)}"
    return "before lease" if "x" in mode and path.parent.name == "leases" else None


def _removal(path: Path) -> str | None:
    if path.suffix == ".tmp" or not (path.parent.name in TABLES or "images" in path.parts):
        return None
    what = _written(path)
    _REMOVED[what] += 1
    return f"{REMOVALS[_REMOVED[what] - 1]} {what}" if _REMOVED[what] <= len(REMOVALS) else None


def _written(path: Path) -> str:
    # A lease is created otherwise. A driver writes run.json as it starts, and in the end.
    record = "start" if getattr(_STATE, "records", 0) % 2 else "run"
    return {"leases": "beat", "record": record}.get(_kind(path), _kind(path))


def _put(path: PurePath, body: bytes) -> str:
    lease = "lease" if b'"beats": 0' in body and b'"released": false' in body else "beat"
    record = "start" if b'"state": "running"' in body else "run"
    return {"leases": lease, "record": record}.get(_kind(path), _kind(path))


def _kind(path: PurePath) -> str:
    folder = path.parent.name
    if folder in {*TABLES, "leases"}:
        return folder
    return "picture" if "images" in path.parts else "record"


def _strike(folder: Path, point: str) -> None:
    victim = _claimed(folder, point)
    if victim is None:
        return
    if victim == "actor":
        for pid in ray_processes(folder, ENGINE_ACTOR):
            kill(pid)
        return
    if victim == "driver":
        kill(_driver(folder))
        time.sleep(30)  # nothing more from here either, until Ray ends the processes of the dead driver
    if victim == "node":
        kill(os.getppid())
    kill(os.getpid())


def _claimed(folder: Path, point: str) -> str | None:
    """The victim of a kill at this point, if one is asked for, and no other process was quicker."""
    asked = (name for name in _names(folder) if name.startswith(f"{point} "))
    return next((name.split(" ")[2] for name in asked if _claim(folder / name)), None)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def _claim(kill: Path) -> bool:
    try:
        kill.unlink()
    except FileNotFoundError:
        return False
    return True


def kill(pid: int) -> None:
    """Kill −9, if there is still something to kill."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def ray_processes(folder: Path, title: str) -> list[int]:
    """Processes that look at the folder, and call themselves so."""
    return [int(path.name) for path in (folder / "processes").iterdir() if _title(path.name).startswith(title)]


def _title(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    except OSError:
        return ""  # it has ended
