"""Where an edit may act: soft masks from the network's own predictions (after DiffEdit, Couairon et al., 2023)."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

_FLOOR: Final = 1e-6


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


def grow(mask: Tensor, radius: int) -> Tensor:
    """Dilate a mask (n, 1, h, w) by `radius` cells, keeping its soft edge."""
    return F.max_pool2d(mask, kernel_size=2 * radius + 1, stride=1, padding=radius) if radius else mask
