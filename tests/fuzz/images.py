"""What a file must come to: a sane photograph, or a row's failure with a code."""

from __future__ import annotations

import re
from typing import Final

import numpy as np

from pipeline.errors import RowError
from pipeline.io.images import Photo, decode

MAX_PIXELS: Final = 1_000_000
_LINE: Final = re.compile(r".{1,500}")


def outcome(data: bytes) -> str:
    """`decoded`, or the code with which the file is refused; `message`, where that is not one line.

    Raises:
        AssertionError: the photograph is none.
    """
    try:
        _check(decode(data, MAX_PIXELS))
    except RowError as error:
        return error.code if _LINE.fullmatch(str(error)) else f"message: {error}"
    return "decoded"


def _check(photo: Photo) -> None:
    height, width, channels = photo.pixels.shape
    assert channels == 3, channels
    assert 1 <= height * width <= MAX_PIXELS, (height, width)
    assert photo.pixels.dtype == np.uint8, photo.pixels.dtype
    assert photo.frames >= 1, photo.frames
    assert photo.alpha is None or (photo.alpha.shape, photo.alpha.dtype) == ((height, width), np.uint8)
