"""Pictures of the working size on their way between processes, as safetensors; free of torch, unlike `tensors`."""

from __future__ import annotations

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

_NAME = "pixels"


def pack_pixels(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels (h, w, 3) or (h, w) as they are, with their shape."""
    return safetensors.numpy.save({_NAME: np.ascontiguousarray(pixels)})


def unpack_pixels(data: bytes) -> NDArray[np.uint8]:
    """Read pixels back."""
    pixels: NDArray[np.uint8] = safetensors.numpy.load(data)[_NAME]
    return pixels
