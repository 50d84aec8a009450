"""Small files that ask for much: each is refused or decoded quickly, whatever it declares."""

from __future__ import annotations

import struct
import zlib

import pytest
from PIL import Image

from pipeline.errors import RowError
from pipeline.io.images import decode, encode_png
from tests.io.pictures import LIMIT, encoded, smooth


def code_of(data: bytes) -> str:
    """The code with which a file is refused."""
    with pytest.raises(RowError) as raised:
        decode(data, LIMIT)
    return raised.value.code


@pytest.mark.parametrize(
    ("name", "head"), [(b"zTXt", b"note\0\0"), (b"iTXt", b"note\0\1\0\0\0"), (b"iCCP", b"profile\0\0")]
)
def test_compressed_text_and_profiles_are_not_inflated(name: bytes, head: bytes) -> None:
    """20 MB of text or colour profile in 20 kB of a PNG are refused."""
    assert code_of(with_chunk(name, head + zlib.compress(b"x" * 20_000_000, 9))) == "image_not_decodable"


def test_many_texts_add_up() -> None:
    """Texts that are each within the bound are refused together."""
    assert (
        code_of(with_chunk(b"zTXt", b"note\0\0" + zlib.compress(b"x" * 900_000, 9), times=80)) == "image_not_decodable"
    )


@pytest.mark.parametrize("declared", [0, 2**31, 2**32 - 1])
def test_frames_are_counted_and_not_believed(declared: int) -> None:
    """A PNG may declare any number of frames; what is recorded fits its column."""
    assert 1 <= decode(with_chunk(b"acTL", struct.pack(">II", declared, 0)), LIMIT).frames <= 1000


def test_a_tiff_of_many_directories() -> None:
    """20,000 pages, one directory each, are not followed to the end: that would take time squared in their number."""
    photo = decode(tiff_of_pages(20_000), LIMIT)
    assert photo.frames == 1000
    assert photo.pixels.shape == (1, 1, 3)


def test_a_tiff_whose_directories_form_a_ring() -> None:
    """A directory that names itself as the next one is the last."""
    data = bytearray(tiff_of_pages(2))
    (first,) = struct.unpack_from("<I", data, 4)
    data[-4:] = struct.pack("<I", first)
    assert decode(bytes(data), LIMIT).frames <= 3


def test_a_progressive_jpeg_of_many_scans() -> None:
    """Each scan of a few bytes decodes the whole picture once more: their number is bounded, not only the pixels."""
    whole = encoded(Image.new("L", (1000, 1000)), "JPEG", progressive=True)
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    assert decode(whole[:-2] + scan * 20 + whole[-2:], LIMIT).pixels.shape == (1000, 1000, 3)
    assert code_of(whole[:-2] + scan * 5000 + whole[-2:]) == "image_too_large"


@pytest.mark.parametrize(
    "data",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
        b"%PDF-1.7\n1 0 obj\n",
        b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        b"<?xml version='1.0'?><!DOCTYPE svg [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><svg>&x;</svg>",
        b"\xc5\xd0\xd3\xc6" + b"\0" * 28 + b"%!PS",
    ],
)
def test_documents_are_no_pictures(data: bytes) -> None:
    """PostScript, PDF and SVG, which run programs or fetch files, are never handed to anything that could."""
    assert code_of(data) == "image_not_decodable"


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "GIF", "BMP"])
def test_nothing_of_a_polyglot_is_published(format_: str) -> None:
    """A picture with a script, an archive or EXIF behind or inside it comes out as its pixels alone."""
    payload = b"PK\x03\x04<script>alert(1)</script>"
    photo = decode(encoded(smooth(), format_) + payload, LIMIT)
    assert payload not in encode_png(photo.pixels, photo.alpha, {"model": "m"})
    assert photo.pixels.shape == (64, 96, 3)


def with_chunk(name: bytes, data: bytes, times: int = 1) -> bytes:
    """A small PNG with a chunk of any content after its header."""
    whole = encoded(Image.new("L", (4, 4)), "PNG")
    chunk = struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return whole[:33] + chunk * times + whole[33:]


def tiff_of_pages(pages: int) -> bytes:
    """A TIFF whose directories follow one another and share one pixel."""
    whole = encoded(Image.new("L", (1, 1)), "TIFF")
    (start,) = struct.unpack_from("<I", whole, 4)
    (tags,) = struct.unpack_from("<H", whole, start)
    directory = whole[start : start + 2 + 12 * tags]
    data = bytearray(whole + b"\0" * (len(whole) % 2))
    at = start + len(directory)
    for _ in range(1, pages):
        struct.pack_into("<I", data, at, len(data))
        data += directory + b"\0\0\0\0"
        at = len(data) - 4
    return bytes(data)
