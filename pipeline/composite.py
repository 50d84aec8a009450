"""Full-resolution compositing: what is not edited keeps the original's pixels, beyond the autoencoder's ceiling.

It computes with arrays, so that a process that publishes pictures needs no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.pixels import Pixels, as_levels

_Values = NDArray[np.float32]
_Given = NDArray[np.floating[Any]]

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
    original: Pixels, edited: _Given, reconstruction: _Given, mask: _Given, *, keeps_shape: bool = True
) -> Pixels:
    """Put an edit made at the model's size into the original at its own size.

    Outside the mask, and where the edit equals the reconstruction, the result *is* the original: there
    the model changed nothing, and its difference to the photograph is the autoencoder's error. Inside,
    it is the edit, plus the original's detail (`original − reconstruction`) where the edit stays close;
    that term fades where content is replaced, since old detail would show through.

    Args:
        original: (H, W, 3).
        edited: (h, w, 3) in [0, 1], at the model's working size; of any precision, as the next two.
        reconstruction: what the model makes of the unedited latents; as `edited`.
        mask: (h, w) in [0, 1]; 1 may change.
        keeps_shape: whether the edit holds the original's shapes. One that does not takes none of its detail.

    Returns:
        (H, W, 3).
    """
    height, width = original.shape[:2]
    edited, reconstruction, mask = (np.asarray(given, np.float32) for given in (edited, reconstruction, mask))
    change, result = _change(edited, reconstruction, mask, (height, width), keeps_shape=keeps_shape), original.copy()
    step = max(1, _BAND // width)
    for rows in (slice(top, min(top + step, height)) for top in range(0, height, step)):
        band = change.at(rows)
        acting = np.flatnonzero((band[_ACTING] > 0).any(axis=0))
        if len(acting):
            columns = slice(int(acting[0]), int(acting[-1]) + 1)
            result[rows, columns] = change.applied(original[rows, columns], band[:, :, columns])
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

    planes: _Values
    height: int
    keeps_shape: bool

    def at(self, rows: slice) -> _Values:
        """The planes in some of the original's rows (8, r, W), interpolated linearly."""
        low = self.planes.shape[1]
        if low == self.height:
            return self.planes[:, rows]
        y = ((np.arange(rows.start, rows.stop) + 0.5) * (low / self.height) - 0.5).clip(min=0)
        upper = y.astype(np.intp)
        lower = np.minimum(upper + 1, low - 1)
        share = (y - upper).astype(np.float32)[:, None]
        above = self.planes[:, upper]
        between: _Values = above + share * (self.planes[:, lower] - above)
        return between

    def applied(self, original: Pixels, planes: _Values) -> Pixels:
        """The result (r, W, 3), of the original's part (r, W, 3) and the planes there."""
        before = np.ascontiguousarray(original.transpose(2, 0, 1), np.float32) / 255
        edited, reconstruction, acting, detail = planes[:3], planes[3:6], planes[_ACTING], planes[_DETAIL]
        changed = edited + detail * (before - reconstruction) if self.keeps_shape else edited
        return as_levels(np.where(acting > 0, before + acting * (changed - before), before)).transpose(1, 2, 0)


def _change(
    edited: _Values, reconstruction: _Values, mask: _Values, size: tuple[int, int], *, keeps_shape: bool
) -> _Change:
    departure = np.maximum.reduce(np.abs(edited - reconstruction).transpose(2, 0, 1))
    largest = _largest(departure, mask)
    shares = (_UNCHANGED, _CHANGED) if keeps_shape else (_UNCHANGED_SHAPE, _CHANGED_SHAPE)
    low, high = max(shares[0] * largest, _UNCHANGED_AT_LEAST), max(shares[1] * largest, _CHANGED_AT_LEAST)
    # In a larger original an edge may lie anywhere within a pixel of the working size: unless that whole pixel acts, a
    # fringe of the old colour stays along it.
    smooth = _smooth(departure)
    reached = smooth if size == departure.shape else _smooth(_around(departure).max(axis=0))
    acting = mask * _ramp(reached, low, high)
    detail = np.exp(-((smooth / _DETAIL_REACH) ** 2))
    height, width = size
    given = *edited.transpose(2, 0, 1), *reconstruction.transpose(2, 0, 1), acting, detail
    planes = np.empty((len(given), min(height, departure.shape[0]), width), np.float32)
    for plane, values in zip(planes, given, strict=True):
        plane[:] = _resized(values, plane.shape)
    return _Change(planes, height, keeps_shape)


def _largest(departure: _Values, mask: _Values) -> float:
    """The departure that all but a few of the pixels stay below that may change; 0 where none may."""
    within = departure[mask > _WITHIN]
    if not len(within):
        return 0.0
    rank = math.ceil(_LARGEST * len(within)) - 1
    return float(np.partition(within, rank)[rank])


def _ramp(x: _Values, low: float, high: float) -> _Values:
    return ((x - low) / (high - low)).clip(0, 1)


def _smooth(x: _Values) -> _Values:
    smoothed: _Values = _around(x).mean(axis=0)
    return smoothed


def _around(x: _Values) -> _Values:
    """Of each pixel (h, w) the nine in and around it (9, h, w); beyond an edge is the edge."""
    padded = np.pad(x, 1, mode="edge")
    height, width = x.shape
    return np.stack([padded[i : i + height, j : j + width] for i in range(3) for j in range(3)])


def _resized(plane: _Values, size: tuple[int, ...]) -> _Values:
    """A plane at this height and width: bilinear, over the whole area where that is smaller."""
    if plane.shape == size:
        return plane
    height, width = size
    return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR))
