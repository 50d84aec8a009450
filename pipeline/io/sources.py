"""What an output remembers of the files that its jobs read, so that unchanged ones need not be read again."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.io.rows_read import among, columns_in_parts, read_rows
from pipeline.io.stamps import stamps
from pipeline.io.storage import StorageError

_LOG: Final = logging.getLogger("relatent.storage")
# Hexadecimal, since NumPy drops zeros from the end of bytes.
_KEY: Final = "S32"


@dataclass(frozen=True, slots=True)
class Seen:
    """A file that was read: where, as what version, and the sha256 of its bytes."""

    uri: str
    size: int
    version: str
    sha256: str


@dataclass(frozen=True, eq=False)
class Memory:
    """The sha256 of each file that was read, by URI and stamp; what it says of a stamp holds for ever.

    64 bytes a file, in two arrays that workers can share without copying.

    Attributes:
        keys: sorted digests of URI and stamp, dtype S32.
        sha256s: (n, 32) bytes.
    """

    keys: NDArray[np.bytes_]
    sha256s: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.keys)

    def recall(self, uris: Iterable[str]) -> dict[str, str]:
        """The sha256 of those files that were read before and have not changed since; looks at stamps, reads nothing.

        Files that the storage does not tell about are none of them: who needs one will find out why.
        """
        if not len(self):
            return {}
        try:
            found = stamps(uris)
        except StorageError as error:
            _LOG.warning("%s; reading what may be unchanged", error)
            return {}
        wanted = np.array([_digest(uri, stamp.size, stamp.version) for uri, stamp in found.items()], _KEY)
        known = among(self.keys, wanted)
        texts = self.sha256s[self.keys.searchsorted(wanted[known])].tobytes().hex()
        uris = itertools.compress(found, known.tolist())
        return {uri: texts[64 * at : 64 * (at + 1)] for at, uri in enumerate(uris)}


NO_MEMORY: Final = Memory(np.empty(0, _KEY), np.empty((0, 32), np.uint8))


def remembered(output: str) -> Memory:
    """What an output remembers.

    Raises:
        StorageError: its table cannot be read.
    """
    table = read_rows(output, "sources", {"uri", "size", "version", "sha256"})
    if not len(table):
        return NO_MEMORY
    keys, sha256s = np.empty(len(table), _KEY), np.empty((len(table), 32), np.uint8)
    at = 0
    for *names, digests in columns_in_parts(table, ("uri", "size", "version", "sha256")):
        part = slice(at, at + len(digests))
        keys[part] = list(map(_digest, *names))
        sha256s[part] = np.frombuffer(bytes.fromhex("".join(digests)), np.uint8).reshape(-1, 32)
        at = part.stop
    keys, first = np.unique(keys, return_index=True)
    return Memory(keys, sha256s[first])


def remembered_uris(output: str) -> set[str]:
    """The files of which an output remembers a version, which may be an earlier one."""
    return set(read_rows(output, "sources", {"uri"})["uri"].to_pylist())


def _digest(uri: str, size: int, version: str) -> bytes:
    return hashlib.blake2b(f"{uri}\0{size}\0{version}".encode(), digest_size=16).hexdigest().encode()
