"""What lies in an output beside its tables' rows: sizes, leftovers of killed runs, and removing what is not needed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from fsspec import AbstractFileSystem

from pipeline.io.lease import Fence
from pipeline.io.storage import PROBE, exists, list_files, on, remove
from pipeline.io.uris import canonical, join, scheme_of

_THREADS: Final = 16
_TEMPORARY: Final = re.compile(r"\.[0-9a-f]{32}\.tmp")


def list_sizes(folder: str, suffix: str = "") -> dict[str, int]:
    """Bytes of each file below a folder whose name ends in `suffix`.

    Raises:
        StorageError: the storage does not answer.
    """
    if scheme_of(folder) == "":
        return {uri: size for uri in list_files(folder, suffix) if (size := _size(Path(uri))) is not None}

    def found(fs: AbstractFileSystem, path: str) -> Mapping[str, Mapping[str, Any]]:
        entries: Mapping[str, Mapping[str, Any]] = fs.find(path, detail=True)
        return entries

    base = f"{scheme_of(folder)}://"
    sizes = {join(base, name.lstrip("/")): int(entry["size"]) for name, entry in on(folder, found).items()}
    return {uri: size for uri, size in sizes.items() if uri.endswith(suffix)}


def _size(path: Path) -> int | None:
    try:
        return path.lstat().st_size
    except OSError:
        return None  # it is gone


def temporary_files(output: str) -> dict[str, int]:
    """Files that nobody finished writing, or that were to go at once, and their bytes.

    On object storage the former are invisible. To be asked before one is the output's writer oneself: then they are
    nobody's.
    """
    probe = join(output, PROBE)
    probes = {probe: 0} if exists(probe) else {}
    if scheme_of(output):
        return probes
    sizes = list_sizes(output, ".tmp")
    return {uri: size for uri, size in sizes.items() if _TEMPORARY.fullmatch(Path(uri).name)} | probes


def remove_files(fence: Fence, uris: Sequence[str]) -> None:
    """Remove files, as an output's only writer.

    Raises:
        JobError: another run has taken over.
        StorageError: one could not be removed.
    """

    def gone(uri: str) -> None:
        fence.check()
        remove(uri)

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(gone, uris))


def remove_empty_folders(folder: str) -> None:
    """Remove local folders below a folder that hold nothing; object storage has none."""
    if scheme_of(folder):
        return
    for at, _, _ in os.walk(canonical(folder), topdown=False):
        if at != canonical(folder) and not any(Path(at).iterdir()):
            Path(at).rmdir()
