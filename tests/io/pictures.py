"""Pictures and their files, for tests of what reads and writes them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LIMIT: Final = 1_000_000


def encoded(image: Image.Image, format_: str, **options: Any) -> bytes:
    """A picture as a file of one of Pillow's formats."""
    buffer = io.BytesIO()
    image.save(buffer, format=format_, **options)
    return buffer.getvalue()


def picture(height: int = 12, width: int = 20, channels: int = 3) -> NDArray[np.uint8]:
    """Noise, (height, width, channels): the same each time."""
    return np.random.default_rng(7).integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth(height: int = 64, width: int = 96) -> Image.Image:
    """A gradient, which JPEG keeps nearly as it is."""
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 2, y * 3, 255 - x], axis=2).astype(np.uint8))


def png(*, width: int, height: int, depth: int, colour: int, data: bytes) -> bytes:
    """A PNG of any header, true or not, and compressed data."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body
