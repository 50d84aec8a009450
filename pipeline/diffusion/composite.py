"""Full-resolution compositing: what is not edited keeps the original's pixels, beyond the autoencoder's ceiling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.diffusion.pixels import to_bytes

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
# Pixels that are worked on together: they stay in a cache, and beside them a photograph takes memory for itself, the
# result, and planes that are as wide as it and as high as the working size.
_BAND: Final = 1 << 16
_ACTING, _DETAIL = 6, 7  # planes of a `_Change`


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
    change = _change(edited, reconstruction, mask, original.shape[-2:], keeps_shape=keeps_shape)
    return change.applied(original, change.at(slice(0, original.shape[-2])))


def composite_pixels(
    original: Tensor, edited: Tensor, reconstruction: Tensor, mask: Tensor, *, keeps_shape: bool = True
) -> Tensor:
    """As `composite`, over pictures as they are stored.

    Args:
        original: uint8 (H, W, 3).
        edited: (h, w, 3) in [0, 1], of any precision.
        reconstruction: as `edited`.
        mask: (h, w) in [0, 1].
        keeps_shape: as there.

    Returns:
        uint8 (H, W, 3).
    """
    height, width = original.shape[:2]
    planes = edited.float().permute(2, 0, 1), reconstruction.float().permute(2, 0, 1), mask.float()[None]
    change, result = _change(*planes, original.shape[:2], keeps_shape=keeps_shape), original.clone()
    step = max(1, _BAND // width)
    for rows in (slice(top, min(top + step, height)) for top in range(0, height, step)):
        band = change.at(rows)
        acting = (band[_ACTING] > 0).any(dim=0).nonzero()
        if len(acting):
            columns = slice(int(acting[0]), int(acting[-1]) + 1)
            part = original[rows, columns].permute(2, 0, 1).float() / 255
            result[rows, columns] = to_bytes(change.applied(part, band[:, :, columns])).permute(1, 2, 0)
    return result


@dataclass(frozen=True, slots=True)
class _Change:
    """What an edit does to an original.

    Attributes:
        planes: (8, h, W) edited, reconstruction, how much acts, and how much detail stays; as wide as the original, and
            as high or lower.
        height: of the original.
        keeps_shape: as for `composite`.
    """

    planes: Tensor
    height: int
    keeps_shape: bool

    def at(self, rows: slice) -> Tensor:
        """The planes in some of the original's rows (8, r, W), interpolated as torch would all of them."""
        low = self.planes.shape[1]
        if low == self.height:
            return self.planes[:, rows]
        y = ((torch.arange(rows.start, rows.stop) + 0.5) * (low / self.height) - 0.5).clamp(min=0)
        above = y.long()
        below = (above + 1).clamp(max=low - 1)
        return torch.lerp(self.planes[:, above], self.planes[:, below], (y - above)[:, None])

    def applied(self, original: Tensor, planes: Tensor) -> Tensor:
        """The result (3, r, W), of the original's part (3, r, W) and the planes there."""
        edited, reconstruction, acting, detail = planes[:3], planes[3:6], planes[_ACTING], planes[_DETAIL]
        changed = edited + detail * (original - reconstruction) if self.keeps_shape else edited
        return torch.where(acting > 0, original + acting * (changed - original), original).clamp(0, 1)


def _change(edited: Tensor, reconstruction: Tensor, mask: Tensor, size: Sequence[int], *, keeps_shape: bool) -> _Change:
    departure = (edited - reconstruction).abs().amax(dim=0, keepdim=True)
    largest = _largest(departure, mask)
    shares = (_UNCHANGED, _CHANGED) if keeps_shape else (_UNCHANGED_SHAPE, _CHANGED_SHAPE)
    low, high = max(shares[0] * largest, _UNCHANGED_AT_LEAST), max(shares[1] * largest, _CHANGED_AT_LEAST)
    # In a larger original an edge may lie anywhere within a pixel of the working size: unless that whole pixel acts, a
    # fringe of the old colour stays along it.
    reached = departure if tuple(size) == departure.shape[-2:] else _widen(departure)
    acting = mask * _ramp(_smooth(reached), low, high)
    detail = torch.exp(-((_smooth(departure) / _DETAIL_REACH) ** 2))
    height, width = size
    planes = torch.cat((edited, reconstruction, acting, detail))
    return _Change(_resize(planes, (min(height, planes.shape[1]), width)), height, keeps_shape)


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


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]
