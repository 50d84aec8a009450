"""Pictures as arrays: any photograph in, upright 8-bit sRGB and its transparency out, and PNG back."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.ExifTags import Base
from PIL.PngImagePlugin import PngInfo

from pipeline.errors import RowError
from pipeline.io.provenance import xmp
from pipeline.pixels import Pixels

_FORMATS: Final = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIXTEEN_BIT: Final = {"I", "I;16", "I;16B", "I;16L", "I;16N"}
_ASPECT_TOLERANCE: Final = 0.02
# zlib's default of 6 takes about twice the time for a few per cent.
_PNG_LEVEL: Final = 4

# More pictures in one file are counted as this many: following a TIFF's directories takes time squared in their number.
_MAX_FRAMES: Final = 1000
# A progressive JPEG is decoded whole once per scan, of which a few bytes make one. Encoders write 10 or so.
_MAX_SCANNED_PIXELS: Final = 4_000_000_000

# The caller's `max_pixels` takes the place of Pillow's own bound, which is the same for every job.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded photograph.

    Attributes:
        pixels: (h, w, 3) sRGB, upright.
        alpha: (h, w) opacity, if the file has any.
        frames: how many pictures the file holds, 1000 standing for more; `pixels` is the first.
        mode: the file's own mode, in Pillow's words.
    """

    pixels: Pixels
    alpha: Pixels | None
    frames: int
    mode: str


def decode(data: bytes, max_pixels: int) -> Photo:
    """Decode a photograph's bytes.

    Raises:
        RowError: image_not_decodable, image_truncated, or image_too_large; the last is known from the
            header alone, before anything is decompressed.
    """
    image = _open(data)
    width, height = image.size
    if width * height > max_pixels:
        raise RowError("image_too_large", f"expected at most {max_pixels} pixels; got {width}×{height}")
    scans = data.count(b"\xff\xda") if image.info.get("progressive") else 1
    if scans * width * height > _MAX_SCANNED_PIXELS:
        raise RowError("image_too_large", f"expected a JPEG of few scans; got {scans} of {width}×{height}")
    return photo_of(image)


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError as error:
        message = f"expected {', '.join(_FORMATS)}; got {len(data)} bytes starting with {data[:12]!r}"
        raise RowError("image_not_decodable", message) from error
    except MemoryError:
        raise
    except Exception as error:  # untrusted bytes can raise anything inside Pillow's parsers
        raise RowError("image_not_decodable", f"unreadable header: {_line(error)}") from error


def photo_of(image: Image.Image) -> Photo:
    """A Pillow image, as `decode` gives it.

    Raises:
        RowError: image_not_decodable or image_truncated.
    """
    mode, format_, (width, height) = image.mode, image.format, image.size
    try:
        frames = _frames(image)
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise RowError("image_truncated", f"damaged {format_} of {width}×{height}: {_line(error)}") from error
    try:
        upright = _upright(image)
        return Photo(pixels=_rgb(upright), alpha=_alpha(upright), frames=frames, mode=mode)
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise RowError("image_not_decodable", f"mode {mode}: {_line(error)}") from error


def _frames(image: Image.Image) -> int:
    if image.format != "TIFF":
        return min(max(1, int(getattr(image, "n_frames", 1))), _MAX_FRAMES)  # some formats declare any number
    count = 1
    with contextlib.suppress(EOFError):
        while count < _MAX_FRAMES:
            image.seek(count)
            count += 1
    image.seek(0)
    return count


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - damaged EXIF must not cost the photograph
        return image
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Pixels:
    if image.mode in _SIXTEEN_BIT:
        grey = np.asarray(image).clip(0, 65535).astype(np.uint32)
        return np.repeat(((grey * 255 + 32767) // 65535).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("expected integer samples; got floating point, whose white is unknown")
    return np.array(_to_srgb(image).convert("RGB"))


def _alpha(image: Image.Image) -> Pixels | None:
    if image.mode in _SIXTEEN_BIT or not image.has_transparency_data:
        return None
    return np.array(image.convert("RGBA").getchannel("A"))


def _to_srgb(image: Image.Image) -> Image.Image:
    """Apply an embedded colour profile, except sRGB itself, whose pixels stay exactly as they are."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return image
        base = image if image.mode in {"RGB", "CMYK", "L"} else image.convert("RGB")
        converted = ImageCms.profileToProfile(base, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # a damaged or mismatched profile says nothing
        return image
    return converted or image


def decode_mask(data: bytes, max_pixels: int) -> Pixels:
    """Decode a mask: (h, w), 255 may change; transparent parts may not.

    Raises:
        RowError: mask_not_decodable.
    """
    try:
        photo = decode(data, max_pixels)
    except RowError as error:
        raise RowError("mask_not_decodable", f"mask: {error}") from error
    luma = np.array(Image.fromarray(photo.pixels).convert("L"))
    if photo.alpha is None:
        return luma
    return np.rint(luma.astype(np.float32) * photo.alpha / 255).astype(np.uint8)


def check_mask_shape(mask: Pixels, photo: Photo) -> None:
    """Refuse a mask whose aspect ratio is not the photograph's; its size may differ.

    Raises:
        RowError: mask_wrong_shape.
    """
    (mask_height, mask_width), (height, width) = mask.shape[:2], photo.pixels.shape[:2]
    if abs(mask_width * height / (mask_height * width) - 1) > _ASPECT_TOLERANCE:
        message = f"expected the photograph's aspect ratio, {width}×{height}; got a mask of {mask_width}×{mask_height}"
        raise RowError("mask_wrong_shape", message)


def resize(array: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize (h, w, 3) or (h, w) to `size` = (width, height): Lanczos over the whole area, free of aliasing."""
    if (array.shape[1], array.shape[0]) == size:
        return array
    return np.array(Image.fromarray(array).resize(size, Image.Resampling.LANCZOS))


def encode_png(pixels: Pixels, alpha: Pixels | None, provenance: Mapping[str, str] | None) -> bytes:
    """Encode (h, w, 3) and its opacity as PNG; equal input gives equal bytes.

    Args:
        pixels: (h, w, 3).
        alpha: (h, w), or none.
        provenance: what `provenance.xmp` embeds; none for a picture that was not generated.
    """
    info = PngInfo()
    if provenance is not None:
        info.add_itxt("XML:com.adobe.xmp", xmp(provenance))
    channels = pixels if alpha is None else np.dstack([pixels, alpha])
    buffer = io.BytesIO()
    Image.fromarray(channels).save(buffer, format="PNG", compress_level=_PNG_LEVEL, pnginfo=info)
    return buffer.getvalue()


def _line(error: Any) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
