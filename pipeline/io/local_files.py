"""Writing local files so that no crash, of a process or of the machine, leaves one half-written."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def create_file(path: Path, data: bytes) -> None:
    """Write a file that is not there yet.

    Raises:
        FileExistsError: it is.
        OSError: it could not be written.
    """
    _make_folder(path.parent)
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(path.parent)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file under another name, then give it its own, which may be another's.

    Raises:
        OSError: it could not be written.
    """
    _make_folder(path.parent)
    temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Let the names in a folder survive a crash of the machine, not only the files' contents."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
