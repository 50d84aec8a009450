"""Measures of how far two images are apart, pixel by pixel and window by window."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

# Two equal images have no finite PSNR; this stands for "no difference that 8 bits could show".
PERFECT_DB = 99.0

# Of the structural similarity: the window's width and its Gaussian's deviation in pixels, and the two constants.
SSIM_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2

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


def ssim(a: Image, b: Image) -> float:
    """Structural similarity of images (h, w, 3) in [0, 1]: 1 where they are equal.

    Mean over channels and over the Gaussian windows of 11×11 pixels that lie inside the image (Wang et al., 2004,
    section III.B), as scikit-image has it, and torchmetrics had it when PIE-Bench's figures were made.
    An image that holds no window gives NaN.
    """
    if min(a.shape[:2]) < SSIM_WINDOW:
        return float("nan")
    x, y = a.astype(np.float64), b.astype(np.float64)
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x, var_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    return float((likeness / ((mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2))).mean())


def _blurred(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian means (h - 10, w - 10, 3) over the windows inside the image."""
    offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = np.exp(-0.5 * (offsets / _SIGMA) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        image = sliding_window_view(image, SSIM_WINDOW, axis) @ weights
    return image
