"""Measures of how far two images are apart, pixel by pixel and window by window."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

# Two equal images have no finite PSNR; this stands for "no difference that 8 bits could show".
PERFECT_DB = 99.0

# Of the structural similarity: the reach of a window and its Gaussian's deviation in pixels, and the two constants.
_SSIM_RADIUS, _SSIM_SIGMA = 5, 1.5
SSIM_WINDOW = 2 * _SSIM_RADIUS + 1
_C1, _C2 = 0.01**2, 0.03**2

Image = NDArray[np.floating]
Region = NDArray[np.bool_]


def psnr(a: Image, b: Image, region: Region | None = None) -> float:
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

    Mean over channels and over the windows that lie inside the image, as scikit-image has it, and torchmetrics had
    it when PIE-Bench's figures were made. An image that holds no window gives NaN.
    """
    if min(a.shape[:2]) < SSIM_WINDOW:
        return float("nan")
    inside = slice(_SSIM_RADIUS, -_SSIM_RADIUS)
    return float(ssim_map(a, b)[inside, inside].mean())


def ssim_map(a: Image, b: Image) -> NDArray[np.float64]:
    """Structural similarity (h, w) of images (h, w, 3) in [0, 1], around each pixel, averaged over channels.

    Wang et al., 2004, with their Gaussian window of 11 × 11 and constants; images are mirrored at their borders,
    so that both sides are at least 6 pixels.
    """
    x, y = (torch.from_numpy(image.astype(np.float64)).permute(2, 0, 1)[:, None] for image in (a, b))
    mean_x, mean_y = _windowed(x), _windowed(y)
    var_x = _windowed(x * x) - mean_x.square()
    var_y = _windowed(y * y) - mean_y.square()
    cov = _windowed(x * y) - mean_x * mean_y
    similarity = ((2 * mean_x * mean_y + _C1) * (2 * cov + _C2)) / (
        (mean_x.square() + mean_y.square() + _C1) * (var_x + var_y + _C2)
    )
    return similarity.mean(dim=(0, 1)).numpy()


def _windowed(x: torch.Tensor) -> torch.Tensor:
    """Gaussian-weighted means of planes (c, 1, h, w)."""
    offsets = torch.arange(-_SSIM_RADIUS, _SSIM_RADIUS + 1, dtype=x.dtype)
    weights = torch.exp(-offsets.square() / (2 * _SSIM_SIGMA**2))
    weights = weights / weights.sum()
    padded = F.pad(x, (_SSIM_RADIUS,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))
