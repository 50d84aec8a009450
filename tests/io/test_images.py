from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from pipeline.errors import RowError
from pipeline.io.images import check_mask_shape, decode, decode_mask, encode_png, resize
from pipeline.io.provenance import xmp

LIMIT = 1_000_000


def _encode(image: Image.Image, format_: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format_, **options)
    return buffer.getvalue()


def _picture(height: int = 12, width: int = 20, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(7).integers(0, 256, (height, width, channels), dtype=np.uint8)


def _smooth(height: int = 64, width: int = 96) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 2, y * 3, 255 - x], axis=2).astype(np.uint8))


def _code(data: bytes, max_pixels: int = LIMIT) -> str:
    with pytest.raises(RowError) as raised:
        decode(data, max_pixels)
    assert "\n" not in str(raised.value)
    return raised.value.code


@pytest.mark.parametrize("format_", ["PNG", "WEBP", "TIFF", "BMP"])
def test_lossless_formats_come_back_exactly(format_: str) -> None:
    """The pixels of an 8-bit picture are the file's own."""
    photo = decode(
        _encode(Image.fromarray(_picture()), format_, **({"lossless": True} if format_ == "WEBP" else {})), LIMIT
    )
    np.testing.assert_array_equal(photo.pixels, _picture())
    assert (photo.alpha, photo.frames, photo.mode) == (None, 1, "RGB")
    assert photo.pixels.flags.writeable


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, np.rot90),
        (7, lambda a: a[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a, -1)),
    ],
)
def test_photographs_are_turned_upright(format_: str, orientation: int, undo: Any) -> None:
    """All eight EXIF orientations give the same upright picture, in every format that has EXIF."""
    upright = np.array(_smooth())
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo(upright)))
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format_, {})
    photo = decode(_encode(stored, format_, exif=exif, **options), LIMIT)
    assert photo.pixels.shape == upright.shape
    assert np.abs(photo.pixels.astype(int) - upright).max() <= (4 if format_ == "JPEG" else 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_costs_nothing() -> None:
    """A photograph with unreadable EXIF is decoded as it is."""
    photo = decode(_encode(_smooth(), "PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff"), LIMIT)
    np.testing.assert_array_equal(photo.pixels, np.array(_smooth()))


def test_alpha_is_kept() -> None:
    """RGBA: the colours are not darkened by the transparency, which comes beside them and turns with them."""
    rgba = _picture(channels=4)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = decode(_encode(Image.fromarray(rgba), "PNG", exif=exif), LIMIT)
    np.testing.assert_array_equal(photo.pixels, np.rot90(rgba[:, :, :3], -1))
    np.testing.assert_array_equal(photo.alpha, np.rot90(rgba[:, :, 3], -1))


def test_grey_with_alpha() -> None:
    """LA: three equal channels and the transparency."""
    la = _picture(channels=2)
    photo = decode(_encode(Image.fromarray(la, "LA"), "PNG"), LIMIT)
    for channel in range(3):
        np.testing.assert_array_equal(photo.pixels[:, :, channel], la[:, :, 0])
    np.testing.assert_array_equal(photo.alpha, la[:, :, 1])
    assert photo.mode == "LA"


def test_palette_with_transparency() -> None:
    """P: colours from the palette; the entry declared transparent is."""
    image = Image.new("P", (4, 2), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    photo = decode(_encode(image, "PNG", transparency=1), LIMIT)
    assert photo.pixels[0, 0].tolist() == [255, 0, 0]
    assert photo.pixels[0, 1].tolist() == [0, 255, 0]
    assert photo.alpha is not None
    assert photo.alpha[0, :2].tolist() == [255, 0]
    assert decode(_encode(image, "PNG"), LIMIT).alpha is None


def test_rgb_with_a_transparent_colour() -> None:
    """A PNG without an alpha channel may still declare one colour transparent."""
    photo = decode(_encode(Image.new("RGB", (3, 3), (9, 8, 7)), "PNG", transparency=(9, 8, 7)), LIMIT)
    assert photo.alpha is not None
    assert not photo.alpha.any()


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_and_bilevel(mode: str) -> None:
    """Pictures of one channel become three equal ones."""
    photo = decode(_encode(_smooth().convert(mode), "PNG"), LIMIT)
    assert photo.pixels.shape == (64, 96, 3)
    assert (photo.pixels[:, :, 0] == photo.pixels[:, :, 2]).all()
    np.testing.assert_array_equal(photo.pixels[:, :, 0], np.array(_smooth().convert(mode).convert("L")))


@pytest.mark.parametrize("format_", ["JPEG", "TIFF"])
def test_cmyk(format_: str) -> None:
    """CMYK: ink becomes light; no ink is white."""
    image = Image.new("CMYK", (32, 16), (0, 0, 0, 0))
    image.paste((0, 255, 255, 0), (16, 0, 32, 16))
    photo = decode(_encode(image, format_), LIMIT)
    assert photo.mode == "CMYK"
    assert photo.pixels[8, 4].min() >= 250
    assert np.abs(photo.pixels[8, 28].astype(int) - [255, 0, 0]).max() <= 8


@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
def test_sixteen_bit_grey(format_: str) -> None:
    """The whole 16-bit range is scaled to 8 bits, rounded to the nearest."""
    values = np.array([[0, 128, 129, 257, 32896, 65535]], dtype=np.uint16)
    photo = decode(_encode(Image.fromarray(values), format_), LIMIT)
    np.testing.assert_array_equal(photo.pixels[0, :, 0], np.rint(values[0] / 257))
    assert photo.mode.startswith("I")
    assert photo.alpha is None


def test_sixteen_bit_colour() -> None:
    """A 16-bit RGB PNG, which Pillow cannot write, is read."""
    rows = b"".join(b"\0" + struct.pack(">6H", 65535, 0, 0, 0, 32896, 65535) for _ in range(2))
    photo = decode(_png(width=2, height=2, depth=16, colour=2, data=zlib.compress(rows)), LIMIT)
    assert photo.pixels[1].tolist() == [[255, 0, 0], [0, 128, 255]]


def test_floating_point_is_refused() -> None:
    """Where white is unknown there is no photograph to edit."""
    assert _code(_encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")) == "image_not_decodable"


def test_animations_give_their_first_frame() -> None:
    """The first frame is taken, and the number of frames recorded."""
    frames = [Image.new("RGB", (8, 6), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    for format_ in ("GIF", "WEBP", "PNG"):
        options = {"lossless": True} if format_ == "WEBP" else {}
        photo = decode(_encode(frames[0], format_, save_all=True, append_images=frames[1:], **options), LIMIT)
        assert photo.frames == 3
        assert (photo.pixels == [255, 0, 0]).all()


def test_one_pixel() -> None:
    """The smallest picture is one."""
    assert decode(_encode(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"), LIMIT).pixels.tolist() == [[[1, 2, 3]]]


def test_embedded_profiles_are_applied() -> None:
    """A profile whose red is sRGB's green turns red into green; sRGB's own profile changes nothing."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"....").replace(b"gXYZ", b"rXYZ").replace(b"....", b"gXYZ")
    other = swapped.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be")).replace(b"sRGB", b"test")
    red = Image.new("RGB", (2, 2), (255, 0, 0))
    assert decode(_encode(red, "PNG", icc_profile=srgb), LIMIT).pixels[0, 0].tolist() == [255, 0, 0]
    assert (
        np.abs(decode(_encode(red, "PNG", icc_profile=other), LIMIT).pixels[0, 0].astype(int) - [0, 255, 0]).max() <= 2
    )
    assert decode(_encode(red, "PNG", icc_profile=b"not a profile"), LIMIT).pixels[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    "data", [b"", b"an order list, not a picture", b"\x89PNG\r\n\x1a\n", b"%PDF-1.7", b"\0" * 4096]
)
def test_what_is_not_a_picture(data: bytes) -> None:
    """Text named .png, empty files and headers alone are refused for what they are."""
    assert _code(data) == "image_not_decodable"


def test_formats_are_few() -> None:
    """Formats that photographs do not come in are not even tried."""
    assert _code(_encode(_smooth(), "PPM")) == "image_not_decodable"
    assert _code(_encode(_smooth(), "ICO")) == "image_not_decodable"


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "TIFF", "BMP", "GIF"])
def test_truncated_files(format_: str) -> None:
    """A file that ends in its middle is truncated, not padded with grey."""
    data = _encode(Image.fromarray(_picture(64, 64)), format_)
    assert _code(data[: len(data) // 2]) == "image_truncated"


def test_a_file_damaged_inside() -> None:
    """Flipped bytes in the compressed data are noticed."""
    data = bytearray(_encode(Image.fromarray(_picture(64, 64)), "PNG"))
    data[len(data) // 2] ^= 0xFF
    assert _code(bytes(data)) == "image_truncated"


def test_random_damage_is_always_a_row_error() -> None:
    """Whatever is wrong with a file, it costs that row alone."""
    rng = np.random.default_rng(11)
    for format_ in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"):
        whole = _encode(_smooth(), format_)
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
    bomb = _png(width=40_000, height=40_000, depth=8, colour=2, data=zlib.compress(b""))
    assert _code(bomb) == "image_too_large"
    assert _code(_encode(Image.new("RGB", (11, 10)), "PNG"), max_pixels=109) == "image_too_large"


def test_the_limit_is_the_caller_s() -> None:
    """A picture of exactly the allowed pixels is decoded, also above Pillow's own warning."""
    assert decode(_encode(Image.new("RGB", (11, 10)), "PNG"), 110).pixels.shape == (10, 11, 3)
    assert Image.MAX_IMAGE_PIXELS is None


def test_a_large_photograph() -> None:
    """48 megapixels are an ordinary camera's."""
    assert decode(_encode(Image.new("L", (8000, 6000), 9), "PNG"), 100_000_000).pixels.shape == (
        6000,
        8000,
        3,
    )


def _png(*, width: int, height: int, depth: int, colour: int, data: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def test_masks_are_one_channel() -> None:
    """A mask is its brightness, upright; what is transparent may not change."""
    grey = _picture(channels=1)[:, :, 0]
    exif = Image.Exif()
    exif[0x0112] = 3
    np.testing.assert_array_equal(
        decode_mask(_encode(Image.fromarray(grey), "PNG", exif=exif), LIMIT), grey[::-1, ::-1]
    )
    rgba = np.full((2, 2, 4), 255, np.uint8)
    rgba[0, 0, 3] = 0
    assert decode_mask(_encode(Image.fromarray(rgba), "PNG"), LIMIT).tolist() == [[0, 255], [255, 255]]


@pytest.mark.parametrize(
    "data", [b"text", _encode(_smooth(), "PNG")[:100], _encode(Image.new("L", (2000, 2000)), "PNG")]
)
def test_masks_that_cannot_be_read(data: bytes) -> None:
    """A mask that is no picture, is truncated or is too large has one code of its own."""
    with pytest.raises(RowError) as raised:
        decode_mask(data, LIMIT)
    assert raised.value.code == "mask_not_decodable"


def test_mask_shapes() -> None:
    """A mask may be smaller, not of another shape."""
    photo = decode(_encode(Image.new("RGB", (300, 200)), "PNG"), LIMIT)
    check_mask_shape(np.zeros((100, 150), np.uint8), photo)
    check_mask_shape(np.zeros((100, 152), np.uint8), photo)
    with pytest.raises(RowError) as raised:
        check_mask_shape(np.zeros((150, 100), np.uint8), photo)
    assert raised.value.code == "mask_wrong_shape"


def test_resizing() -> None:
    """Sizes are (width, height); flat areas stay flat, fine stripes average out, and no change is no change."""
    flat = np.full((30, 40, 3), 77, np.uint8)
    assert (resize(flat, (10, 5)) == 77).all()
    assert resize(flat, (10, 5)).shape == (5, 10, 3)
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(resize(stripes, (16, 16))[:, 2:-2].astype(int) - 127).max() <= 2
    assert resize(stripes, (64, 64)) is stripes


@pytest.mark.parametrize("transparent", [False, True])
def test_png_round_trip(transparent: bool) -> None:
    """Pixels and opacity survive; the same picture gives the same bytes."""
    alpha = _picture(channels=1)[:, :, 0] if transparent else None
    data = encode_png(_picture(), alpha, {"model": "m", "prompt": "ein blauer Krug — 蓝色杯子", "edit_key": "ab"})
    assert data == encode_png(
        _picture().copy(), alpha, {"model": "m", "prompt": "ein blauer Krug — 蓝色杯子", "edit_key": "ab"}
    )
    photo = decode(data, LIMIT)
    np.testing.assert_array_equal(photo.pixels, _picture())
    if alpha is None:
        assert photo.alpha is None
    else:
        np.testing.assert_array_equal(photo.alpha, alpha)


def test_png_provenance_can_be_read_back() -> None:
    """The XMP packet stands where readers look for it, word for word."""
    provenance = {"model": "m", "prompt": "a <mug> & 蓝色", "edit_key": "ab"}
    with Image.open(io.BytesIO(encode_png(_picture(), None, provenance))) as image:
        assert image.info["XML:com.adobe.xmp"] == xmp(provenance)
    with Image.open(io.BytesIO(encode_png(_picture(), None, None))) as image:
        assert "XML:com.adobe.xmp" not in image.info
