"""Writes that depend on what is there: of several writers at most one gets what it expects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fsspec import AbstractFileSystem

from pipeline.io.local_files import create_file
from pipeline.io.retries import answer
from pipeline.io.storage import StorageError, on
from pipeline.io.transfers import transferred
from pipeline.io.uris import scheme_of


def create_bytes(uri: str, data: bytes) -> bool:
    """Write a file that is not there yet; of several writers exactly one succeeds.

    Returns:
        Whether this one did; also False where it did, but the answer was lost and the request sent again.

    Raises:
        StorageError: it could not be written.
    """

    def create(fs: AbstractFileSystem, path: str) -> None:
        if scheme_of(uri) == "":
            create_file(Path(path), data)
        else:
            fs.pipe_file(path, data, mode="create")

    return _unless_refused(uri, data, create, FileExistsError)


def replace_bytes(uri: str, data: bytes, version: str) -> bool:
    """Write an object on S3 in the place of the one of this version, and of no other.

    Returns:
        Whether that was done; also False where it was, but the answer was lost and the request sent again.

    Raises:
        StorageError: it could not be written.
    """
    return _unless_refused(uri, data, lambda fs, path: fs.pipe_file(path, data, IfMatch=version), FileNotFoundError)


def version_of(uri: str) -> str | None:
    """The ETag of an object on S3, None if there is none.

    Raises:
        StorageError: the storage does not answer.
    """
    try:
        return on(uri, lambda fs, path: str(fs.info(path)["ETag"]))
    except StorageError as error:
        if error.missing:
            return None
        raise


def _unless_refused(
    uri: str, data: bytes, write: Callable[[AbstractFileSystem, str], None], refusal: type[OSError]
) -> bool:
    def tried(fs: AbstractFileSystem, path: str) -> bool:
        try:
            write(fs, path)
        except OSError as error:
            # s3fs does not translate every store's answer.
            refused = answer(error)[1] in {"PreconditionFailed", "ConditionalRequestConflict"}
            if refused or isinstance(error, refusal):
                return False
            raise
        return True

    done = on(uri, tried)
    transferred("out", len(data) if done else 0)
    return done
