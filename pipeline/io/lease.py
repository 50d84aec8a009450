"""One writer per output: numbered leases, each the end of the one before (infra/decisions/0012-commit-protocol.md)."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Final

from pipeline.errors import JobError
from pipeline.io.conditional import create_bytes, replace_bytes, version_of
from pipeline.io.layout import lease_uri, leases_uri
from pipeline.io.storage import StorageError, list_files, read_if_there, write_bytes
from pipeline.io.uris import scheme_of

_LOG: Final = logging.getLogger("relatent")

BEAT_SECONDS: Final = 5.0
# Without a sign of life for so long, a holder counts as gone. Storage outages of 45 seconds have been seen to pass.
PATIENCE_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.5
_KEPT_DAYS: Final = 30
_SINCE: Final = "%Y-%m-%d %H:%M:%S UTC"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a lease, as its file says it.

    Attributes:
        run: unlike any other run's.
        machine: identity of the operating system and its process numbers; empty where unknown.
        started: when the process started, in the machine's own measure.
        beats: grows while the holder lives.
    """

    run: str
    host: str
    pid: int
    since: str
    machine: str
    started: str
    beats: int = 0
    released: bool = False

    def __str__(self) -> str:
        return f"host {self.host}, pid {self.pid}, since {self.since}"


# What a file says that its holder has not finished writing.
_UNKNOWN: Final = Holder("", "unknown", 0, "unknown", "", "", beats=-1)


@dataclass(frozen=True, slots=True)
class Fence:
    """The right to write into an output, for those who work for a lease's holder.

    Attributes:
        output: which one.
        token: the number of the lease. Rows carry it: those of a later lease are newer.
    """

    output: str
    token: int

    def check(self) -> None:
        """Make sure, before each write, that no other run has taken over.

        Raises:
            JobError: one has.
            StorageError: the storage does not say.
        """
        later = _holder(self.output, self.token + 1)
        if later is not None:
            raise JobError(f"output {self.output}: another run took over ({later}); this one has stopped writing")

    def write(self, uri: str, data: bytes) -> None:
        """Write a file below the output, in the place of any that is there.

        On S3 it never takes the place of one that was written after the check, so that what a suspended process sends
        late does not replace what a later run has made.

        Raises:
            JobError: another run has taken over.
            StorageError: it could not be written.
        """
        self.check()
        if scheme_of(uri) != "s3":
            write_bytes(uri, data)
            return
        done = create_bytes(uri, data)
        while not done:
            version = version_of(uri)
            self.check()
            done = create_bytes(uri, data) if version is None else replace_bytes(uri, data, version)


@contextmanager
def held(output: str) -> Iterator[Fence]:
    """Be an output's only writer for as long as the context lasts.

    Raises:
        JobError: another run is.
        StorageError: the lease could not be read or written.
    """
    fence, mine = _acquire(output)
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(fence, mine, ended), name=f"lease {fence.token}", daemon=True)
    heart.start()
    try:
        yield fence
    finally:
        ended.set()
        heart.join(BEAT_SECONDS)
        # Not to be able to say that it is over costs the next run its patience, nothing else.
        with suppress(StorageError):
            write_bytes(lease_uri(output, fence.token), _released(mine))


def writer(output: str) -> Holder | None:
    """Who writes into an output, as far as one look tells: a holder that was killed on another machine looks alive.

    Raises:
        StorageError: the storage does not answer.
    """
    holders = [_holder(output, head) for head in _heads(output)]
    return next((one for one in reversed(holders) if one and not one.released and not _is_dead(one)), None)


def outdated_leases(output: str) -> list[str]:
    """Leases that nobody can still be fenced off by, by any doubt: a month old, and not the newest.

    Whoever was taken over finds the next lease for as long; one that has slept for longer does not look before it
    writes the one thing that it had in hand in any case.

    Raises:
        StorageError: the storage does not answer.
    """
    earlier = sorted(_tokens(output))[:-1]
    before = datetime.now(UTC) - timedelta(days=_KEPT_DAYS)
    holders = {token: _holder(output, token) for token in earlier}
    return [lease_uri(output, token) for token, holder in holders.items() if holder and _began(holder, before) < before]


def _began(holder: Holder, unknown: datetime) -> datetime:
    try:
        return datetime.strptime(holder.since, _SINCE).replace(tzinfo=UTC)
    except ValueError:
        return unknown


def _acquire(output: str) -> tuple[Fence, Holder]:
    mine = _myself()
    while True:
        heads = _heads(output)
        for head in heads[:-1]:
            _end(output, head, mine)
        for head in heads[-1:]:
            _wait_until_over(output, head)
        # Should somebody delete all leases, later ones still have higher numbers. Even ones, so that of runs that begin
        # at once, where there is none, no lease is another's successor.
        token = heads[-1] + 1 if heads else 2 * int(time.time() * 1000)
        # A request that is sent again, because its answer was lost, finds what it wrote.
        created = create_bytes(lease_uri(output, token), _text(mine)) or _holder(output, token) == mine
        if created and (heads or _prevails(output, token, mine)):
            return Fence(output, token), mine


def _prevails(output: str, token: int, mine: Holder) -> bool:
    """Whether a first lease stands; if not, it is released.

    Runs that begin at once, where there is no lease, each have a number of their own. Whoever creates its lease last
    sees all of them: the highest stands, unless a lower one's holder, who saw nobody, is at work.

    Raises:
        JobError: it is.
    """
    others = [head for head in _heads(output) if head != token]
    stands = False
    try:
        if all(head < token for head in others):
            for head in others:
                _end(output, head, mine)
            stands = True
    finally:
        if not stands:
            write_bytes(lease_uri(output, token), _released(mine))
    return stands


def _end(output: str, head: int, mine: Holder) -> None:
    """Wait until the lease is over, and fence its holder off, should it come back.

    Raises:
        JobError: it is not over.
    """
    _wait_until_over(output, head)
    holder = _holder(output, head)
    if holder is not None and not holder.released:
        create_bytes(lease_uri(output, head + 1), _released(mine))


def _beat(fence: Fence, mine: Holder, ended: threading.Event) -> None:
    for beats in itertools.count(1):
        if ended.wait(BEAT_SECONDS):
            return
        try:
            fence.check()
            write_bytes(lease_uri(fence.output, fence.token), _text(dataclasses.replace(mine, beats=beats)))
        except StorageError as error:
            _LOG.warning("lease: %s", error)
        except JobError:
            return  # whoever writes next finds out


def _wait_until_over(output: str, token: int) -> None:
    """Return once the lease's holder has released it, is dead, or has given no sign of life for long enough.

    No clocks are compared: all that counts is whether the file changes while we look. A look that has to wait for the
    storage is one look: the holder cannot write its beats either.
    """
    seen, looks, told = _holder(output, token), 0, False
    while not (seen is None or seen.released or _is_dead(seen)):
        waited = looks * _LOOK_SECONDS
        if waited > PATIENCE_SECONDS:
            return
        if waited > 2 * BEAT_SECONDS and not told:
            rest = PATIENCE_SECONDS - waited
            _LOG.warning("output %s: no sign of life of its run (%s); taking over in %.0f s", output, seen, rest)
            told = True
        time.sleep(_LOOK_SECONDS)
        looks += 1
        now = _holder(output, token)
        if now is not None and now.beats != seen.beats and not now.released:
            raise JobError(f"output {output}: another run is writing there ({now}); wait for its end, or end it")
        seen = now


def _heads(output: str) -> list[int]:
    """The leases that no other has ended, in their order: one, but where runs began at once where there was none."""
    tokens = set(_tokens(output))
    return sorted(token for token in tokens if token + 1 not in tokens)


def _tokens(output: str) -> list[int]:
    stems = (PurePosixPath(uri).stem for uri in list_files(leases_uri(output), ".json"))
    return [int(stem) for stem in stems if stem.isdecimal()]


def _holder(output: str, token: int) -> Holder | None:
    data = read_if_there(lease_uri(output, token))
    if data is None:
        return None
    try:
        return Holder(**json.loads(data))
    except (ValueError, TypeError):
        return _UNKNOWN


def _text(holder: Holder) -> bytes:
    return json.dumps(dataclasses.asdict(holder)).encode()


def _released(holder: Holder) -> bytes:
    return _text(dataclasses.replace(holder, released=True))


def _myself() -> Holder:
    now = datetime.now(UTC).strftime(_SINCE)
    started = _start_of(os.getpid()) or ""
    return Holder(uuid.uuid4().hex, socket.gethostname(), os.getpid(), now, _machine(), started)


def _is_dead(holder: Holder) -> bool:
    """Whether the holder is known to be gone; it is only of a process on this machine."""
    return bool(holder.started) and holder.machine == _machine() and _start_of(holder.pid) != holder.started


def _machine() -> str:
    """What two processes share that know each other by their numbers; containers have numbers of their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _start_of(pid: int) -> str | None:
    """When a living process started, in clock ticks since the machine did; None if there is none, or no telling."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # man 5 proc: the state is field 3, the start time field 22; only field 2, in brackets, may hold spaces.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else fields[19]
