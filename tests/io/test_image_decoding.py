from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.io.images import decode
from tests.io.pictures import LIMIT, encoded, picture, png, smooth


@pytest.mark.parametrize("format_", ["PNG", "WEBP", "TIFF", "BMP"])
def test_lossless_formats_come_back_exactly(format_: str) -> None:
    """The pixels of an 8-bit picture are the file's own."""
    photo = decode(
        encoded(Image.fromarray(picture()), format_, **({"lossless": True} if format_ == "WEBP" else {})), LIMIT
    )
    np.testing.assert_array_equal(photo.pixels, picture())
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
    upright = np.array(smooth())
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo(upright)))
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format_, {})
    photo = decode(encoded(stored, format_, exif=exif, **options), LIMIT)
    assert photo.pixels.shape == upright.shape
    assert np.abs(photo.pixels.astype(int) - upright).max() <= (4 if format_ == "JPEG" else 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_costs_nothing() -> None:
    """A photograph with unreadable EXIF is decoded as it is."""
    photo = decode(encoded(smooth(), "PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff"), LIMIT)
    np.testing.assert_array_equal(photo.pixels, np.array(smooth()))


def test_alpha_is_kept() -> None:
    """RGBA: the colours are not darkened by the transparency, which comes beside them and turns with them."""
    rgba = picture(channels=4)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = decode(encoded(Image.fromarray(rgba), "PNG", exif=exif), LIMIT)
    np.testing.assert_array_equal(photo.pixels, np.rot90(rgba[:, :, :3], -1))
    np.testing.assert_array_equal(photo.alpha, np.rot90(rgba[:, :, 3], -1))


def test_grey_with_alpha() -> None:
    """LA: three equal channels and the transparency."""
    la = picture(channels=2)
    photo = decode(encoded(Image.fromarray(la, "LA"), "PNG"), LIMIT)
    for channel in range(3):
        np.testing.assert_array_equal(photo.pixels[:, :, channel], la[:, :, 0])
    np.testing.assert_array_equal(photo.alpha, la[:, :, 1])
    assert photo.mode == "LA"


def test_palette_with_transparency() -> None:
    """P: colours from the palette; the entry declared transparent is."""
    image = Image.new("P", (4, 2), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    photo = decode(encoded(image, "PNG", transparency=1), LIMIT)
    assert photo.pixels[0, 0].tolist() == [255, 0, 0]
    assert photo.pixels[0, 1].tolist() == [0, 255, 0]
    assert photo.alpha is not None
    assert photo.alpha[0, :2].tolist() == [255, 0]
    assert decode(encoded(image, "PNG"), LIMIT).alpha is None


def test_rgb_with_a_transparent_colour() -> None:
    """A PNG without an alpha channel may still declare one colour transparent."""
    photo = decode(encoded(Image.new("RGB", (3, 3), (9, 8, 7)), "PNG", transparency=(9, 8, 7)), LIMIT)
    assert photo.alpha is not None
    assert not photo.alpha.any()


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_and_bilevel(mode: str) -> None:
    """Pictures of one channel become three equal ones."""
    photo = decode(encoded(smooth().convert(mode), "PNG"), LIMIT)
    assert photo.pixels.shape == (64, 96, 3)
    assert (photo.pixels[:, :, 0] == photo.pixels[:, :, 2]).all()
    np.testing.assert_array_equal(photo.pixels[:, :, 0], np.array(smooth().convert(mode).convert("L")))


@pytest.mark.parametrize("format_", ["JPEG", "TIFF"])
def test_cmyk(format_: str) -> None:
    """CMYK: ink becomes light; no ink is white."""
    image = Image.new("CMYK", (32, 16), (0, 0, 0, 0))
    image.paste((0, 255, 255, 0), (16, 0, 32, 16))
    photo = decode(encoded(image, format_), LIMIT)
    assert photo.mode == "CMYK"
    assert photo.pixels[8, 4].min() >= 250
    assert np.abs(photo.pixels[8, 28].astype(int) - [255, 0, 0]).max() <= 8


@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
def test_sixteen_bit_grey(format_: str) -> None:
    """The whole 16-bit range is scaled to 8 bits, rounded to the nearest."""
    values = np.array([[0, 128, 129, 257, 32896, 65535]], dtype=np.uint16)
    photo = decode(encoded(Image.fromarray(values), format_), LIMIT)
    np.testing.assert_array_equal(photo.pixels[0, :, 0], np.rint(values[0] / 257))
    assert photo.mode.startswith("I")
    assert photo.alpha is None


def test_sixteen_bit_colour() -> None:
    """A 16-bit RGB PNG, which Pillow cannot write, is read."""
    rows = b"".join(b"\0" + struct.pack(">6H", 65535, 0, 0, 0, 32896, 65535) for _ in range(2))
    photo = decode(png(width=2, height=2, depth=16, colour=2, data=zlib.compress(rows)), LIMIT)
    assert photo.pixels[1].tolist() == [[255, 0, 0], [0, 128, 255]]


def test_animations_give_their_first_frame() -> None:
    """The first frame is taken, and the number of frames recorded."""
    frames = [Image.new("RGB", (8, 6), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    for format_ in ("GIF", "WEBP", "PNG"):
        options = {"lossless": True} if format_ == "WEBP" else {}
        photo = decode(encoded(frames[0], format_, save_all=True, append_images=frames[1:], **options), LIMIT)
        assert photo.frames == 3
        assert (photo.pixels == [255, 0, 0]).all()


def test_one_pixel() -> None:
    """The smallest picture is one."""
    assert decode(encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"), LIMIT).pixels.tolist() == [[[1, 2, 3]]]


def test_a_large_photograph() -> None:
    """48 megapixels are an ordinary camera's."""
    assert decode(encoded(Image.new("L", (8000, 6000), 9), "PNG"), 100_000_000).pixels.shape == (
        6000,
        8000,
        3,
    )


def test_embedded_profiles_are_applied() -> None:
    """A profile whose red is sRGB's green turns red into green; sRGB's own profile changes nothing."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"....").replace(b"gXYZ", b"rXYZ").replace(b"....", b"gXYZ")
    other = swapped.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be")).replace(b"sRGB", b"test")
    red = Image.new("RGB", (2, 2), (255, 0, 0))
    assert decode(encoded(red, "PNG", icc_profile=srgb), LIMIT).pixels[0, 0].tolist() == [255, 0, 0]
    assert (
        np.abs(decode(encoded(red, "PNG", icc_profile=other), LIMIT).pixels[0, 0].astype(int) - [0, 255, 0]).max() <= 2
    )
    assert decode(encoded(red, "PNG", icc_profile=b"not a profile"), LIMIT).pixels[0, 0].tolist() == [255, 0, 0]
