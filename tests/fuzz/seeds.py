"""What mutations start from: whole files of every format that is decoded, and of the ways it stores pixels."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

_WIDTH, _HEIGHT = 48, 40
_TIFF_COMPRESSIONS: Final = (
    "raw",
    "tiff_lzw",
    "tiff_adobe_deflate",
    "packbits",
    "jpeg",
    "lzma",
    "zstd",
    "tiff_deflate",
)


def seeds() -> Mapping[str, tuple[bytes, ...]]:
    """Format → files; the same each time."""
    makers = {"PNG": _png, "JPEG": _jpeg, "WEBP": _webp, "TIFF": _tiff, "BMP": _bmp, "GIF": _gif}
    return {name: tuple(maker()) for name, maker in makers.items()}


def _picture(mode: str = "RGB", shift: int = 0) -> Image.Image:
    """A gradient with some noise: neither flat nor incompressible."""
    y, x = np.mgrid[0:_HEIGHT, 0:_WIDTH]
    noise = np.random.default_rng(shift).integers(0, 16, (_HEIGHT, _WIDTH))
    channels = np.stack([x * 4 + noise, y * 5 + shift, 255 - x * 3], axis=2)
    image = Image.fromarray(channels.clip(0, 255).astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray((channels[:, :, 0] * 256).astype(np.uint16))
    if mode in {"RGBA", "LA"}:
        image.putalpha(Image.fromarray((255 - y * 4).clip(0, 255).astype(np.uint8)))
    return image.convert(mode)


def _file(image: Image.Image, format_: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format_, **options)
    return buffer.getvalue()


def _profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x9286] = 6, "a mug", b"ASCII\0\0\0" + b"note " * 20
    return exif


def _png() -> Iterator[bytes]:
    for mode in ("RGB", "RGBA", "P", "L", "LA", "1", "I;16"):
        yield _file(_picture(mode), "PNG")
    yield _file(_picture("P"), "PNG", transparency=3)
    yield _file(_picture("RGB"), "PNG", transparency=(1, 2, 3))
    info = PngInfo()
    info.add_text("comment", "x" * 400, zip=True)
    info.add_itxt("XML:com.adobe.xmp", "<x/>" * 50, zip=True)
    yield _file(_picture(), "PNG", pnginfo=info, icc_profile=_profile(), exif=_exif())
    yield _file(_picture(), "PNG", save_all=True, append_images=[_picture(shift=9), _picture(shift=20)])


def _jpeg() -> Iterator[bytes]:
    for mode in ("RGB", "L", "CMYK"):
        yield _file(_picture(mode), "JPEG", quality=80)
    yield _file(_picture(), "JPEG", progressive=True, subsampling=2)
    yield _file(_picture(), "JPEG", exif=_exif(), icc_profile=_profile(), comment=b"a comment", restart_marker_rows=1)
    yield _file(_picture(), "MPO", save_all=True, append_images=[_picture(shift=5)])


def _webp() -> Iterator[bytes]:
    for mode in ("RGB", "RGBA"):
        yield _file(_picture(mode), "WEBP", quality=60)
        yield _file(_picture(mode), "WEBP", lossless=True)
    yield _file(_picture(), "WEBP", exif=_exif(), icc_profile=_profile())
    yield _file(_picture(), "WEBP", save_all=True, append_images=[_picture(shift=5)], duration=50)


def _tiff() -> Iterator[bytes]:
    for compression in _TIFF_COMPRESSIONS:
        yield _file(_picture(), "TIFF", compression=compression)
    for mode in ("RGBA", "CMYK", "P", "L", "I;16"):
        yield _file(_picture(mode), "TIFF", compression="tiff_lzw")
    for compression in ("group3", "group4", "tiff_ccitt"):
        yield _file(_picture("1"), "TIFF", compression=compression)
    yield _file(_picture(), "TIFF", exif=_exif(), icc_profile=_profile())
    yield _file(_picture(), "TIFF", save_all=True, append_images=[_picture("L"), _picture(shift=8)])


def _bmp() -> Iterator[bytes]:
    for mode in ("RGB", "RGBA", "P", "L", "1"):
        yield _file(_picture(mode), "BMP")
    yield _run_length_encoded()


def _run_length_encoded() -> bytes:
    """A BMP of RLE8, which Pillow reads and cannot write: rows of runs, each with its end."""
    plain = _file(_picture("P"), "BMP")
    start = int.from_bytes(plain[10:14], "little")
    rows = b"".join(bytes([_WIDTH, row]) + b"\0\0" for row in range(_HEIGHT)) + b"\0\1"
    header = bytearray(plain[:start])
    header[30:34] = (1).to_bytes(4, "little")
    header[34:38] = len(rows).to_bytes(4, "little")
    return bytes(header) + rows


def _gif() -> Iterator[bytes]:
    for mode in ("P", "L", "1"):
        yield _file(_picture(mode), "GIF", interlace=mode == "L")
    yield _file(_picture("P"), "GIF", transparency=5)
    frames = [_picture("P", shift) for shift in (5, 9)]
    yield _file(_picture("P"), "GIF", save_all=True, append_images=frames, disposal=2, comment=b"frames")
