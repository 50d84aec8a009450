"""Storage: the one place that decides which file system a URI means."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import fsspec
from fsspec import AbstractFileSystem

from pipeline.errors import RelatentError
from pipeline.io.retries import STORAGE_ERRORS, one_line, with_retries
from pipeline.io.transfers import transferred
from pipeline.io.uris import canonical, check_allowed, join, parent, resolve, scheme_of

__all__ = [
    "StorageError",
    "check_allowed",
    "check_writable",
    "copy_folder",
    "exists",
    "folder_version",
    "glob",
    "is_folder",
    "join",
    "list_files",
    "parent",
    "read_bytes",
    "read_part",
    "resolve",
    "size",
    "write_bytes",
]

_T = TypeVar("_T")


class StorageError(RelatentError):
    """An object could not be read or written; `missing` says that there is none."""

    def __init__(self, message: str, *, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing


def read_bytes(uri: str) -> bytes:
    """The whole content of a file or object.

    Raises:
        StorageError: it is not there (`missing`), is not a file, or the storage does not answer.
    """

    def read(fs: AbstractFileSystem, path: str) -> bytes:
        # A manifest may name /dev/zero or a pipe, whose reading never ends.
        if scheme_of(uri) == "" and Path(path).exists() and not Path(path).is_file():
            raise IsADirectoryError("expected a regular file")
        return bytes(fs.cat_file(path))

    data = _on(uri, read)
    transferred("in", len(data))
    return data


def read_part(uri: str, read: Callable[[BinaryIO], _T]) -> _T:
    """Apply `read` to the open, seekable object; only the ranges it asks for are transferred.

    Raises:
        StorageError: as `read_bytes`.
    """

    def opened(fs: AbstractFileSystem, path: str) -> _T:
        # Read-ahead would fetch 50 MiB around a Parquet footer.
        with fs.open(path, "rb", cache_type="none") as file:
            return read(file)

    return _on(uri, opened)


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file so that a reader sees all of it or nothing, replacing what was there.

    Raises:
        StorageError: it could not be written.
    """

    def write(fs: AbstractFileSystem, path: str) -> None:
        if scheme_of(uri) == "":
            _replace_file(Path(path), data)
        else:
            fs.pipe_file(path, data)

    _on(uri, write)
    transferred("out", len(data))


def _replace_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(folder: str) -> None:
    """Write a file below a folder, which is made if it is not there, and delete it.

    Raises:
        StorageError: it could not be written.
    """
    probe = join(folder, ".writable")
    write_bytes(probe, b"")
    # Who may write need not be allowed to delete, and another job may have been quicker.
    with suppress(StorageError):
        _on(probe, lambda fs, path: fs.rm_file(path))


def exists(uri: str) -> bool:
    """Whether there is a file, object or folder."""
    return _on(uri, lambda fs, path: bool(fs.exists(path)))


def is_folder(uri: str) -> bool:
    """Whether there is a folder, or on object storage any key below this prefix."""
    return _on(uri, lambda fs, path: bool(fs.isdir(path)))


def size(uri: str) -> int:
    """How many bytes a file or object has.

    Raises:
        StorageError: it is not there (`missing`), or the storage does not answer.
    """
    return _on(uri, lambda fs, path: int(fs.size(path)))


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
    return sorted(_uri(scheme, path) for path in _on(folder, found) if path.endswith(suffix))


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
    return sorted(_uri(scheme, path) for path in _on(pattern, matched))


def folder_version(folder: str) -> str:
    """A short text that changes whenever a file below a folder is added, removed or replaced, without reading any.

    Raises:
        StorageError: nothing is there, or the storage does not answer.
    """

    def listed(fs: AbstractFileSystem, path: str) -> list[tuple[str, Any, str]]:
        entries: Mapping[str, Mapping[str, Any]] = fs.find(path, detail=True)
        stamps = ("ETag", "mtime", "created")
        return sorted((name, e["size"], str([e.get(stamp) for stamp in stamps])) for name, e in entries.items())

    found = _on(folder, listed)
    if not found:
        raise StorageError(f"{folder}: no files below this folder", missing=True)
    return hashlib.sha256(repr(found).encode()).hexdigest()[:24]


def copy_folder(uri: str, destination: Path) -> None:
    """Copy all files below a folder to a local one, which appears only when it is complete.

    Raises:
        StorageError: nothing is there, a key would climb out of `destination`, or the transfer failed.
    """
    files = list_files(uri)
    if not files:
        raise StorageError(f"{uri}: no files below this folder", missing=True)
    root = canonical(uri).rstrip("/") + "/"
    partial = destination.parent / f".{destination.name}.{uuid.uuid4().hex}.partial"
    try:
        for file in files:
            name = file.removeprefix(root)
            if {"", ".", ".."} & set(name.split("/")):
                raise StorageError(f"{file}: the name climbs out of its folder")
            _copy_file(file, partial / name)
        _publish_folder(partial, destination)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy_file(uri: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    _on(uri, lambda fs, path: fs.get_file(path, str(target)))


def _publish_folder(partial: Path, destination: Path) -> None:
    try:
        partial.rename(destination)
    except OSError as error:
        # Another process was quicker: both copies are the same.
        if not destination.is_dir():
            raise StorageError(f"{destination}: {error.strerror}") from error


def _on(uri: str, action: Callable[[AbstractFileSystem, str], _T]) -> _T:
    """Run an action on the file system and path of a URI."""
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
        return _s3(), path
    if scheme == "memory":
        return fsspec.filesystem("memory"), "/" + path.lstrip("/")
    raise StorageError(f"{uri}: expected a path, file:// or s3://bucket/key")


def _s3() -> AbstractFileSystem:
    # Instances are cached by these arguments, so a changed environment gets a new one. Credentials stay
    # with the environment or workload identity. botocore itself reads only AWS_DEFAULT_REGION.
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return fsspec.filesystem(
        "s3",
        endpoint_url=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
        client_kwargs={"region_name": region} if region else {},
        use_listings_cache=False,
    )


def _uri(scheme: str, path: str) -> str:
    return join(f"{scheme}://", path.lstrip("/")) if scheme else path


def _described(uri: str, error: BaseException) -> StorageError:
    if isinstance(error, FileNotFoundError):
        return StorageError(f"{uri}: no such file or object", missing=True)
    if isinstance(error, PermissionError):
        return StorageError(f"{uri}: access denied ({one_line(error)})")
    return StorageError(f"{uri}: {one_line(error)}")
