from __future__ import annotations

import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import RowError
from pipeline.io.images import decode
from tests.io.pictures import LIMIT, encoded, picture, png, smooth


def code_of(data: bytes, max_pixels: int = LIMIT) -> str:
    """The code with which a file is refused, in one line."""
    with pytest.raises(RowError) as raised:
        decode(data, max_pixels)
    assert "\n" not in str(raised.value)
    return raised.value.code


def test_floating_point_is_refused() -> None:
    """Where white is unknown there is no photograph to edit."""
    assert code_of(encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")) == "image_not_decodable"


@pytest.mark.parametrize(
    "data", [b"", b"an order list, not a picture", b"\x89PNG\r\n\x1a\n", b"%PDF-1.7", b"\0" * 4096]
)
def test_what_is_not_a_picture(data: bytes) -> None:
    """Text named .png, empty files and headers alone are refused for what they are."""
    assert code_of(data) == "image_not_decodable"


def test_formats_are_few() -> None:
    """Formats that photographs do not come in are not even tried."""
    assert code_of(encoded(smooth(), "PPM")) == "image_not_decodable"
    assert code_of(encoded(smooth(), "ICO")) == "image_not_decodable"


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "TIFF", "BMP", "GIF"])
def test_truncated_files(format_: str) -> None:
    """A file that ends in its middle is truncated, not padded with grey."""
    data = encoded(Image.fromarray(picture(64, 64)), format_)
    assert code_of(data[: len(data) // 2]) == "image_truncated"


def test_a_file_damaged_inside() -> None:
    """Flipped bytes in the compressed data are noticed."""
    data = bytearray(encoded(Image.fromarray(picture(64, 64)), "PNG"))
    data[len(data) // 2] ^= 0xFF
    assert code_of(bytes(data)) == "image_truncated"


def test_random_damage_is_always_a_row_error() -> None:
    """Whatever is wrong with a file, it costs that row alone."""
    rng = np.random.default_rng(11)
    for format_ in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"):
        whole = encoded(smooth(), format_)
        for _ in range(40):
            data = bytearray(whole)
            for at in rng.integers(0, len(data), 8):
                data[at] = rng.integers(0, 256)
            try:
                decode(bytes(data), LIMIT)
            except RowError:
                continue


def test_bombs_are_refused_by_their_header() -> None:
    """A file of a few bytes that declares 40,000 × 40,000 pixels is refused before anything is inflated."""
    bomb = png(width=40_000, height=40_000, depth=8, colour=2, data=zlib.compress(b""))
    assert code_of(bomb) == "image_too_large"
    assert code_of(encoded(Image.new("RGB", (11, 10)), "PNG"), max_pixels=109) == "image_too_large"


def test_the_limit_is_the_caller_s() -> None:
    """A picture of exactly the allowed pixels is decoded, also above Pillow's own warning."""
    assert decode(encoded(Image.new("RGB", (11, 10)), "PNG"), 110).pixels.shape == (10, 11, 3)
    assert Image.MAX_IMAGE_PIXELS is None
