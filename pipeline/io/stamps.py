"""What tells, without reading a file, that it is still the one that was read."""

from __future__ import annotations

import os
import stat
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from pipeline.io.storage import on, read_part, read_within
from pipeline.io.uris import canonical, scheme_of

# A file that changes again this soon may get the same times: those of some file systems have steps of two seconds.
_SETTLED_NS: Final = 2_000_000_000
# Keys that a listing is asked for, for each that is looked for: others may lie between them.
_LISTED_PER_KEY: Final = 4
_MOST_LISTED: Final = 1000


@dataclass(frozen=True, slots=True)
class Stamp:
    """Size in bytes and version: an object's ETag, or the times at which a local file's bytes and status changed."""

    size: int
    version: str


def read_stamped(uri: str, limit: int) -> tuple[bytes, Stamp | None]:
    """The whole content of a file, and the stamp that it has for as long as it is unchanged.

    Args:
        uri: what to read.
        limit: bytes that it may have.

    Returns:
        None in the stamp's place where the storage has none, or the file changed a moment ago and may do so again
        without getting another.

    Raises:
        TooLargeError: it has more than `limit` bytes.
        StorageError: as `read_bytes`.
    """

    def read(file: BinaryIO) -> tuple[bytes, Stamp | None]:
        before = _of_open(uri, file)
        data = read_within(uri, file, limit)
        return data, before if _of_open(uri, file) == before else None

    return read_part(uri, read)


def stamps(uris: Iterable[str]) -> dict[str, Stamp]:
    """The stamps of those files that are there and have one.

    On S3 keys that lie near each other are answered by one listing, which is of the folder that they share: another may
    not be allowed. There are never more requests than URIs.

    Raises:
        StorageError: the storage does not answer, or does not allow to list.
    """
    found: dict[str, Stamp] = {}
    by_folder: defaultdict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for uri in uris:
        scheme = scheme_of(uri)
        if scheme == "" and (stamp := _of_path(uri)):
            found[uri] = stamp
        elif scheme == "s3":
            bucket, _, key = canonical(uri).partition("://")[2].partition("/")
            by_folder[bucket, key.rpartition("/")[0].partition("/")[0]][key] = uri
    for (bucket, _), uri_of in by_folder.items():
        found |= {uri_of[key]: stamp for key, stamp in _listed(bucket, sorted(uri_of)).items()}
    return found


def _of_open(uri: str, file: BinaryIO) -> Stamp | None:
    if scheme_of(uri) == "s3":
        # s3fs asked for these when it opened the object, and reads no other.
        details: Mapping[str, Any] = getattr(file, "details", {})
        return _of_object(details.get("size"), details.get("ETag"))
    if scheme_of(uri) == "":
        return _of_status(os.fstat(file.fileno()), settled=True)
    return None


def _of_path(uri: str) -> Stamp | None:
    try:
        path = uri if uri.startswith("/") else canonical(uri)
        return _of_status(os.stat(path), settled=False)  # noqa: PTH116 - reading it says what is wrong with it
    except (OSError, ValueError):
        return None


def _of_status(status: os.stat_result, *, settled: bool) -> Stamp | None:
    if not stat.S_ISREG(status.st_mode) or (settled and time.time_ns() - status.st_mtime_ns < _SETTLED_NS):
        return None
    # A copy can take over the time of the bytes (cp -p, rsync -t), never that of the status.
    return Stamp(status.st_size, f"{status.st_mtime_ns} {status.st_ctime_ns}")


def _of_object(size: object, etag: object) -> Stamp | None:
    return Stamp(size, etag.strip('"')) if isinstance(size, int) and isinstance(etag, str) and etag else None


def _listed(bucket: str, keys: Sequence[str]) -> dict[str, Stamp]:
    """Stamps of the keys, sorted, that are there. Relies on nothing but an answer for a key that is in one."""
    wanted, found = set(keys), dict[str, Stamp]()
    folder, passed = _shared_folder(keys), ""
    for at, key in enumerate(keys):
        if key in found or key <= passed:
            continue
        count = min(_MOST_LISTED, _LISTED_PER_KEY * (len(keys) - at))
        for name, stamp in _page(bucket, folder, _just_before(key), count):
            passed = name
            if name in wanted and stamp is not None:
                found[name] = stamp
    return found


def _shared_folder(keys: Sequence[str]) -> str:
    """The deepest folder that all keys, sorted, lie in, with its slash; nothing for the bucket itself."""
    first, last = keys[0], keys[-1]
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[: first.rfind("/", 0, same) + 1]


def _page(bucket: str, folder: str, after: str, count: int) -> list[tuple[str, Stamp | None]]:
    """The next keys of a folder after a text, and their stamps: one request."""
    answer: Mapping[str, Any] = on(
        f"s3://{bucket}",
        lambda fs, _: fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=folder, StartAfter=after, MaxKeys=count),
    )
    return [(entry["Key"], _of_object(entry.get("Size"), entry.get("ETag"))) for entry in answer.get("Contents", ())]


def _just_before(key: str) -> str:
    """A text that comes before a key, and after all or nearly all of the keys before it."""
    last = key[-1:]
    return key[:-1] + (chr(ord(last) - 1) + "~~~~" if "!" < last <= "~" else "")
