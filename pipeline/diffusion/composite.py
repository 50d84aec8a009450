"""Full-resolution compositing: what is not edited keeps the original's pixels, beyond the autoencoder's ceiling."""

from __future__ import annotations

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

# Differences between edit and reconstruction below which nothing was edited and above which everything was: as
# shares of the edit's own largest, since whatever an edit does, the rest of the picture drifts along a little ...
_UNCHANGED: Final = 0.20
_CHANGED: Final = 0.40
# Where another object takes the place of one, what both have in common is the new one's, too: kept from the original,
# it would lie across it as a line.
_UNCHANGED_SHAPE: Final = 0.10
_CHANGED_SHAPE: Final = 0.30
# ... and at least, in [0, 1] of a channel, where an edit does next to nothing.
_UNCHANGED_AT_LEAST: Final = 0.03
_CHANGED_AT_LEAST: Final = 0.08
_LARGEST: Final = 0.95  # quantile over the mask's pixels: single ones do not decide
_WITHIN: Final = 0.5
# How far an edit may depart from the reconstruction before the original's detail would show as a ghost.
_DETAIL_REACH: Final = 0.20


def composite(
    original: Tensor, edited: Tensor, reconstruction: Tensor, mask: Tensor, *, keeps_shape: bool = True
) -> Tensor:
    """Put an edit made at the model's size into the original at its own size.

    Outside the mask, and where the edit equals the reconstruction, the result *is* the original: there
    the model changed nothing, and its difference to the photograph is the autoencoder's error. Inside,
    it is the edit, plus the original's detail (`original − reconstruction`) where the edit stays close;
    that term fades where content is replaced, since old detail would show through.

    Args:
        original: (3, H, W) in [0, 1].
        edited: (3, h, w) in [0, 1], at the model's working size.
        reconstruction: what the model makes of the unedited latents; as `edited`.
        mask: (1, h, w) in [0, 1]; 1 may change.
        keeps_shape: whether the edit holds the original's shapes. One that does not takes none of its detail.

    Returns:
        (3, H, W) in [0, 1].
    """
    departure = (edited - reconstruction).abs().amax(dim=0, keepdim=True)
    largest = _largest(departure, mask)
    shares = (_UNCHANGED, _CHANGED) if keeps_shape else (_UNCHANGED_SHAPE, _CHANGED_SHAPE)
    low, high = max(shares[0] * largest, _UNCHANGED_AT_LEAST), max(shares[1] * largest, _CHANGED_AT_LEAST)
    size = original.shape[-2:]
    # In a larger original an edge may lie anywhere within a pixel of the working size: unless that whole pixel acts, a
    # fringe of the old colour stays along it.
    reached = departure if size == departure.shape[-2:] else _widen(departure)
    acting = mask * _ramp(_smooth(reached), low, high)
    detail = torch.exp(-((_smooth(departure) / _DETAIL_REACH) ** 2))
    edited, reconstruction = _resize(edited, size), _resize(reconstruction, size)
    acting, detail = _resize(acting, size), _resize(detail, size)
    changed = edited + detail * (original - reconstruction) if keeps_shape else edited
    return torch.where(acting > 0, original + acting * (changed - original), original).clamp(0, 1)


def composite_pixels(
    original: Tensor, edited: Tensor, reconstruction: Tensor, mask: Tensor, *, keeps_shape: bool = True
) -> Tensor:
    """As `composite`, over pictures as they are stored.

    Args:
        original: uint8 (H, W, 3).
        edited: float32 (h, w, 3) in [0, 1].
        reconstruction: as `edited`.
        mask: float32 (h, w) in [0, 1].
        keeps_shape: as there.

    Returns:
        uint8 (H, W, 3).
    """
    planes = original.permute(2, 0, 1).float() / 255
    edited, reconstruction = edited.permute(2, 0, 1), reconstruction.permute(2, 0, 1)
    result = composite(planes, edited, reconstruction, mask[None], keeps_shape=keeps_shape)
    return to_bytes(result.permute(1, 2, 0))


def to_bytes(pixels: Tensor) -> Tensor:
    """Values in [0, 1] → uint8, to the nearest level."""
    return (pixels * 255).round().clamp(0, 255).to(torch.uint8)


def _largest(departure: Tensor, mask: Tensor) -> float:
    """The departure that all but a few of the pixels stay below that may change; 0 where none may."""
    within = departure[mask > _WITHIN]
    if not len(within):
        return 0.0
    return float(within.kthvalue(math.ceil(_LARGEST * len(within))).values)


def _ramp(x: Tensor, low: float, high: float) -> Tensor:
    return ((x - low) / (high - low)).clamp(0, 1)


def _widen(x: Tensor) -> Tensor:
    return F.max_pool2d(x, kernel_size=3, stride=1, padding=1)


def _smooth(x: Tensor) -> Tensor:
    padded = F.pad(x[None], (1, 1, 1, 1), mode="replicate")
    return F.avg_pool2d(padded, kernel_size=3, stride=1)[0]


def _resize(x: Tensor, size: torch.Size) -> Tensor:
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]
