"""Arrays on their way between processes, as safetensors; free of torch, unlike `tensors`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from pipeline.pixels import Pixels

_NAME = "pixels"


def pack_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Named arrays as one payload."""
    return safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in arrays.items()})


def unpack_arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """Read arrays back, with their dtypes and shapes."""
    return safetensors.numpy.load(data)


def pack_pixels(pixels: Pixels) -> bytes:
    """Pixels (h, w, 3) or (h, w) as they are, with their shape."""
    return pack_arrays({_NAME: pixels})


def unpack_pixels(data: bytes) -> Pixels:
    """Read pixels back."""
    return unpack_arrays(data)[_NAME]
