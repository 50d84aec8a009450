"""Between Pillow's images, which notebooks use, and the arrays of the engine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps


def from_pillow(image: Any) -> NDArray[np.uint8]:
    """A Pillow image, or an array already, → uint8 (h, w, 3), upright, without alpha.

    Raises:
        ValueError: an array of another shape or type.
    """
    if isinstance(image, Image.Image):
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"image: expected a Pillow image or uint8 (h, w, 3); got {array.dtype} {array.shape}")
    return array


def to_pillow(pixels: NDArray[np.uint8]) -> Image.Image:
    """uint8 (h, w, 3) → a Pillow image."""
    return Image.fromarray(pixels)
