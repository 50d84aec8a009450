"""Pictures as arrays of levels 0..255, in which they come and go."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # (h, w, 3); of masks and opacities (h, w)


def as_levels(values: NDArray[np.floating[Any]]) -> Pixels:
    """Values in [0, 1], of any precision → the nearest levels."""
    levels: Pixels = np.rint(np.multiply(values, 255, dtype=np.float32)).clip(0, 255).astype(np.uint8)
    return levels
