"""Between Pillow's images, which notebooks use, and the arrays of the engine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.io.images import photo_of


def from_pillow(image: Any) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """A Pillow image, or an array already, → uint8 (h, w, 3), upright, and its alpha (h, w) if it has any.

    Raises:
        RowError: the image is damaged, or of floating point.
        ValueError: an array of another shape or type.
    """
    if isinstance(image, Image.Image):
        photo = photo_of(image)
        return photo.pixels, photo.alpha
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"image: expected a Pillow image or uint8 (h, w, 3); got {array.dtype} {array.shape}")
    return array, None


def to_pillow(pixels: NDArray[np.uint8], alpha: NDArray[np.uint8] | None) -> Image.Image:
    """uint8 (h, w, 3), and alpha of the same size if there is any → a Pillow image."""
    image = Image.fromarray(pixels)
    if alpha is not None and alpha.shape == pixels.shape[:2]:
        image.putalpha(Image.fromarray(alpha))
    return image
