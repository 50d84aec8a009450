"""Image measures in decibels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Two equal images have no finite PSNR; this stands for "no difference that 8 bits could show".
PERFECT_DB = 99.0

Image = NDArray[np.floating]


def psnr(a: Image, b: Image, region: NDArray[np.bool_] | None = None) -> float:
    """Peak signal-to-noise ratio of images (h, w, 3) in [0, 1], in dB, over a region (h, w) or everywhere.

    An empty region has no error to speak of and gives NaN.
    """
    squared = np.square(a.astype(np.float64) - b.astype(np.float64))
    if region is not None:
        squared = squared[region]
    if squared.size == 0:
        return float("nan")
    error = float(squared.mean())
    return PERFECT_DB if error <= 10 ** (-PERFECT_DB / 10) else -10 * float(np.log10(error))
