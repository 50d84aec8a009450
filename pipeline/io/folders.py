"""Whole folders: copying one from a storage, and telling whether it has changed."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem

from pipeline.io.storage import StorageError, list_files, on
from pipeline.io.uris import canonical


def folder_version(folder: str) -> str:
    """A short text that changes whenever a file below a folder is added, removed or replaced, without reading any.

    Raises:
        StorageError: nothing is there, or the storage does not answer.
    """

    def listed(fs: AbstractFileSystem, path: str) -> list[tuple[str, Any, str]]:
        entries: Mapping[str, Mapping[str, Any]] = fs.find(path, detail=True)
        stamps = ("ETag", "mtime", "created")
        return sorted((name, e["size"], str([e.get(stamp) for stamp in stamps])) for name, e in entries.items())

    found = on(folder, listed)
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
    on(uri, lambda fs, path: fs.get_file(path, str(target)))


def _publish_folder(partial: Path, destination: Path) -> None:
    try:
        partial.rename(destination)
    except OSError as error:
        # Another process was quicker: both copies are the same.
        if not destination.is_dir():
            raise StorageError(f"{destination}: {error.strerror}") from error
