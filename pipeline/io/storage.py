"""Storage: the one place that decides which file system a URI means."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

import fsspec
from fsspec import AbstractFileSystem

from pipeline.errors import RelatentError
from pipeline.io.local_files import replace_file
from pipeline.io.retries import STORAGE_ERRORS, answer, one_line, with_retries
from pipeline.io.s3 import s3
from pipeline.io.transfers import transferred
from pipeline.io.uris import canonical, check_allowed, join, parent, resolve, scheme_of

__all__ = [
    "PROBE",
    "StorageError",
    "TooLargeError",
    "check_allowed",
    "check_writable",
    "exists",
    "folds_case",
    "glob",
    "is_folder",
    "join",
    "list_files",
    "on",
    "parent",
    "read_bytes",
    "read_if_there",
    "read_part",
    "read_within",
    "remove",
    "resolve",
    "size",
    "write_bytes",
]

# Written and removed to see whether a folder can be written to; a kill in between leaves it.
PROBE: Final = ".writable"

_T = TypeVar("_T")
# What S3, and the services that lend credentials for it, answer to those whose time is over.
_EXPIRED: Final = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}


class StorageError(RelatentError):
    """An object could not be read or written; `missing` says that there is none."""

    def __init__(self, message: str, *, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing


class TooLargeError(StorageError):
    """An object is larger than its reader allows."""


def read_bytes(uri: str, limit: int | None = None) -> bytes:
    """The whole content of a file or object.

    Args:
        uri: what to read.
        limit: bytes that it may have; of more, one byte beyond is transferred and no others.

    Raises:
        TooLargeError: it has more than `limit` bytes.
        StorageError: it is not there (`missing`), is not a file, or the storage does not answer.
    """
    if limit is not None:
        return read_part(uri, lambda file: read_within(uri, file, limit))

    def read(fs: AbstractFileSystem, path: str) -> bytes:
        _check_regular(uri, path)
        return bytes(fs.cat_file(path))

    data = on(uri, read)
    transferred("in", len(data))
    return data


def read_within(uri: str, file: BinaryIO, limit: int) -> bytes:
    """The whole content of an open file, as `read_bytes` reads it.

    Raises:
        TooLargeError: it has more than `limit` bytes.
    """
    data = bytes(file.read(limit + 1))
    if len(data) > limit:
        raise TooLargeError(f"{uri}: expected at most {limit} bytes")
    transferred("in", len(data))
    return data


def _check_regular(uri: str, path: str) -> None:
    # A manifest may name /dev/zero or a pipe, whose reading never ends.
    if scheme_of(uri) == "" and Path(path).exists() and not Path(path).is_file():
        raise IsADirectoryError("expected a regular file")


def read_if_there(uri: str) -> bytes | None:
    """The content of a small file or object, None if there is none.

    On S3 it is one request either way, and another where the store denies what is not there.

    Raises:
        StorageError: the storage does not answer.
    """
    # Otherwise s3fs first asks for the size, and lists what it does not find.
    options = {"max_concurrency": 1} if scheme_of(uri) == "s3" else {}
    try:
        return on(uri, lambda fs, path: bytes(fs.cat_file(path, **options)))
    except StorageError as error:
        if error.missing:
            return None
        raise


def read_part(uri: str, read: Callable[[BinaryIO], _T]) -> _T:
    """Apply `read` to the open, seekable object; only the ranges it asks for are transferred.

    Raises:
        StorageError: as `read_bytes`.
    """

    def opened(fs: AbstractFileSystem, path: str) -> _T:
        _check_regular(uri, path)
        # Read-ahead would fetch 50 MiB around a Parquet footer.
        with fs.open(path, "rb", cache_type="none") as file:
            return read(file)

    return on(uri, opened)


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file so that a reader sees all of it or nothing, replacing what was there.

    Once this returns the file survives a crash of the machine, and so does what was written before it.

    Raises:
        StorageError: it could not be written.
    """

    def write(fs: AbstractFileSystem, path: str) -> None:
        if scheme_of(uri) == "":
            replace_file(Path(path), data)
        else:
            fs.pipe_file(path, data)

    on(uri, write)
    transferred("out", len(data))


def check_writable(folder: str) -> None:
    """Write a file below a folder, which is made if it is not there, and delete it.

    Raises:
        StorageError: it could not be written.
    """
    probe = join(folder, PROBE)
    write_bytes(probe, b"")
    # Who may write need not be allowed to delete, and another job may have been quicker.
    with suppress(StorageError):
        remove(probe)


def remove(uri: str) -> None:
    """Remove a file or object; that there is none is no error.

    Raises:
        StorageError: it could not be removed.
    """
    try:
        on(uri, lambda fs, path: fs.rm_file(path))
    except StorageError as error:
        if not error.missing:
            raise


def exists(uri: str) -> bool:
    """Whether there is a file, object or folder."""
    return on(uri, lambda fs, path: bool(fs.exists(path)))


def folds_case(folder: str) -> bool:
    """Whether a name below a folder, there already or not, is the same in capitals; on object storage it never is."""
    if scheme_of(folder):
        return False
    path = Path(canonical(folder))
    there = next(above for above in (path, *path.parents) if above.exists())
    lettered = next((above for above in (there, *there.parents) if above.name.swapcase() != above.name), None)
    if lettered is None:
        return False
    twin = lettered.with_name(lettered.name.swapcase())
    return twin.exists() and twin.samefile(lettered)


def is_folder(uri: str) -> bool:
    """Whether there is a folder, or on object storage any key below this prefix."""
    return on(uri, lambda fs, path: bool(fs.isdir(path)))


def size(uri: str) -> int:
    """How many bytes a file or object has.

    Raises:
        StorageError: it is not there (`missing`), or the storage does not answer.
    """
    return on(uri, lambda fs, path: int(fs.size(path)))


def list_files(folder: str, suffix: str = "") -> list[str]:
    """URIs of all files below a folder whose names end in `suffix`, sorted; none if the folder is absent."""

    def found(fs: AbstractFileSystem, path: str) -> list[str]:
        if scheme_of(folder) == "":
            return _walk(path)
        try:
            return [str(p) for p in fs.find(path)]
        except FileNotFoundError:
            return []

    scheme = scheme_of(folder)
    return sorted(_uri(scheme, path) for path in on(folder, found) if path.endswith(suffix))


def _walk(folder: str) -> list[str]:
    def fail(error: OSError) -> None:
        # fsspec leaves out a folder that it cannot list: committed rows would look undone.
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    return [f"{at}/{name}" for at, _, names in os.walk(folder, onerror=fail) for name in names]


def glob(pattern: str) -> list[str]:
    """URIs of the files that match a pattern with `*`, `?`, `[…]` or `**`, sorted."""

    def matched(fs: AbstractFileSystem, path: str) -> list[str]:
        entries: Mapping[str, Mapping[str, Any]] = fs.glob(path, detail=True)
        return [name for name, entry in entries.items() if entry["type"] == "file"]

    scheme = scheme_of(pattern)
    return sorted(_uri(scheme, path) for path in on(pattern, matched))


def on(uri: str, action: Callable[[AbstractFileSystem, str], _T]) -> _T:
    """Run an action on the file system and path of a URI, trying again what may pass.

    Raises:
        StorageError: it failed.
    """
    fs, path = _locate(uri)
    try:
        return with_retries(uri, lambda: action(fs, path))
    except STORAGE_ERRORS as error:
        raise _described(uri, error) from error


def _locate(uri: str) -> tuple[AbstractFileSystem, str]:
    if "\0" in uri:
        raise StorageError(f"{uri!r}: holds a NUL character")
    scheme, path = scheme_of(uri), canonical(uri).partition("://")[2]
    if scheme == "":
        return fsspec.filesystem("file"), canonical(uri)
    if scheme == "s3" and path.strip("/"):
        return s3(), path
    if scheme == "memory":
        return fsspec.filesystem("memory"), "/" + path.lstrip("/")
    raise StorageError(f"{uri}: expected a path, file:// or s3://bucket/key")


def _uri(scheme: str, path: str) -> str:
    return join(f"{scheme}://", path.lstrip("/")) if scheme else path


def _described(uri: str, error: BaseException) -> StorageError:
    if isinstance(error, FileNotFoundError):
        return StorageError(f"{uri}: no such file or object", missing=True)
    status, code = answer(error)
    if code in _EXPIRED:
        return StorageError(f"{uri}: the credentials have expired ({one_line(error)})")
    if isinstance(error, PermissionError):
        return StorageError(f"{uri}: access denied ({one_line(error)})")
    if (status, code) == (400, "400"):  # to a request for an object's size, which has no room for reasons
        return StorageError(f"{uri}: {one_line(error)}; stores say so, and no more, where credentials have expired")
    return StorageError(f"{uri}: {one_line(error)}")
