"""Where an edit may act: soft masks from the network's own predictions and from its attention to words.

After DiffEdit (Couairon et al., 2023), and after Prompt-to-Prompt (Hertz et al., 2022) and DAAM (Tang et al., 2023).
"""

from __future__ import annotations

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

_FLOOR: Final = 1e-6
_SIGMAS: Final = 3  # beyond these a gaussian is as good as zero


def soft_mask(difference: Tensor, threshold: float, softness: float) -> Tensor:
    """Predictions' differences (n, c, h, w) → mask (n, 1, h, w) in [0, 1].

    Differences are averaged over channels, smoothed, and scaled by each row's own largest; a row whose
    predictions agree everywhere has an empty mask.
    """
    magnitude = difference.float().abs().mean(dim=1, keepdim=True)
    smooth = F.avg_pool2d(F.pad(magnitude, (1, 1, 1, 1), mode="replicate"), kernel_size=3, stride=1)
    largest = torch.quantile(smooth.flatten(1), 0.98, dim=1).view(-1, 1, 1, 1)
    relative = smooth / largest.clamp(min=_FLOOR)
    mask = ((relative - threshold) / softness + 0.5).clamp(0, 1)
    return torch.where(largest > _FLOOR, mask, torch.zeros_like(mask))


def attention_mask(maps: Tensor, threshold: float, softness: float) -> Tensor:
    """How much each cell attends to each of some words (n, words, h, w) → mask (n, 1, h, w) in [0, 1].

    Every cell attends to every word a little. Each map is scaled from its own least to its own largest, and a
    cell is in the mask where any of the words has it; a map that is the same everywhere marks nothing.
    """
    smooth = F.avg_pool2d(F.pad(maps.float(), (1, 1, 1, 1), mode="replicate"), kernel_size=3, stride=1)
    least, largest = smooth.amin(dim=(2, 3), keepdim=True), smooth.amax(dim=(2, 3), keepdim=True)
    relative = ((smooth - least) / (largest - least).clamp(min=_FLOOR)).amax(dim=1, keepdim=True)
    return ((relative - threshold) / softness + 0.5).clamp(0, 1)


def grow(mask: Tensor, radius: int) -> Tensor:
    """Dilate a mask (n, 1, h, w) by `radius` cells, keeping its soft edge."""
    return F.max_pool2d(mask, kernel_size=2 * radius + 1, stride=1, padding=radius) if radius else mask


def feather(mask: Tensor, sigma: float) -> Tensor:
    """Let a mask's edge (n, 1, h, w) fade: a gaussian of `sigma` cells; 0 is the mask itself."""
    if not sigma:
        return mask
    radius = math.ceil(_SIGMAS * sigma)
    at = torch.arange(-radius, radius + 1, dtype=mask.dtype, device=mask.device)
    kernel = torch.softmax(-(at / sigma).square() / 2, dim=0)
    padded = F.pad(mask, (radius,) * 4, mode="replicate")
    blurred = F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return blurred.clamp(0, 1)
