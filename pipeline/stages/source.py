"""A file that a row names, an image or a mask: its identity first, its bytes only when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from pipeline.errors import RowError
from pipeline.io.sources import Seen
from pipeline.io.stamps import read_stamped
from pipeline.io.storage import StorageError, TooLargeError
from pipeline.keys import sha256_hex

# A file of more than its largest picture without compression, and what describes it, is not read.
_BYTES_PER_PIXEL: Final = 4
_METADATA_BYTES: Final = 64 << 20


class OutdatedError(Exception):
    """A file is not what it was remembered to be: it changed after its stamp was looked at."""


class Source:
    """One file; it is read once at most.

    Args:
        uri: where it is.
        kind: what it is to the row, which says how a failure to read it is called.
        max_pixels: that a picture may have, which bounds its bytes.
        recalled: the sha256 that it is remembered to have.

    Attributes:
        seen: what there is to remember of it, once it was read.
    """

    def __init__(self, uri: str, kind: Literal["image", "mask"], max_pixels: int, recalled: str | None = None) -> None:
        self.seen: Sequence[Seen] = ()
        self._uri = uri
        self._kind = kind
        self._limit = _BYTES_PER_PIXEL * max_pixels + _METADATA_BYTES
        self._recalled = recalled
        self._data: bytes | None = None

    @property
    def sha256(self) -> str:
        """Of the file's bytes.

        Raises:
            RowError: it had to be read, and could not be.
        """
        return self._recalled or sha256_hex(self.data)

    @property
    def data(self) -> bytes:
        """The file's bytes.

        Raises:
            RowError: they cannot be read.
            OutdatedError: they are not those that are remembered.
        """
        if self._data is None:
            self._data = self._read()
        return self._data

    def _read(self) -> bytes:
        try:
            data, stamp = read_stamped(self._uri, self._limit)
        except TooLargeError as error:
            code = "image_too_large" if self._kind == "image" else "mask_not_decodable"
            raise RowError(code, str(error)) from error
        except StorageError as error:
            code = f"{self._kind}_missing" if error.missing else "storage_unavailable"
            raise RowError(code, str(error)) from error
        sha256 = sha256_hex(data)
        if self._recalled not in {None, sha256}:
            raise OutdatedError(self._uri)
        if self._recalled is None and stamp is not None:
            self.seen = (Seen(self._uri, stamp.size, stamp.version, sha256),)
        self._recalled = sha256
        return data
