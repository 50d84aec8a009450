"""Learned embeddings as a few directions that all steps share: small enough to keep for every image.

What a fit adds to a prompt's embedding moves along few directions over the steps. The best of them by least squares
(Eckart and Young, 1936) are kept, scaled by token, with each step's weights: in eight bits where enough of them are
small, else in four, since twice as many directions in four bits say more than half of them in eight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

# What deltas are kept as.
FACTORS: Final = ("weights", "directions", "scales")
# All that add anything are kept in eight bits, if they fit into these bytes; else as many as fit in four, and six at
# least, as at Stable Diffusion 1.5's size, whose artifacts then stay below 256 KB (infra/decisions/0014).
_BYTES: Final = 200_000
_FEWEST: Final = 6
_MOST: Final = 8
_EIGHT_BITS: Final = 127
_FOUR_BITS: Final = 7
_MIDDLE: Final = 8  # what stands for 0 in a half of a byte
_SMALLEST: Final = 1e-6  # of a scale that float16 holds; a token that nothing moved stays where it is


def factored(deltas: Tensor) -> dict[str, Tensor]:
    """One image's deltas (s, tokens, width) at s steps → what `delta_at` reads them from, nearly.

    "weights" (s, r) and "scales" (r, tokens) are float16, "directions" (r, tokens, width) int8, or uint8 with two
    levels in each (r, tokens, width / 2), for which the width is even. Where the deltas are not all finite the scales
    are not.
    """
    finite = deltas.isfinite().all()
    # No eigenvector is found of what is not finite.
    rows = deltas.flatten(1).double().where(finite, 0.0)
    there_are, size = min(_MOST, rows.shape[0]), rows.shape[1]
    whole = there_are * size <= _BYTES
    rank = there_are if whole else min(there_are, max(_FEWEST, _BYTES // (size // 2)))
    most = _EIGHT_BITS if whole else _FOUR_BITS
    # Of the Gram matrix, which is small: eigenvectors come by ascending eigenvalues.
    weights = torch.linalg.eigh(rows @ rows.mT).eigenvectors[..., -rank:]
    directions = (weights.mT @ rows).unflatten(1, deltas.shape[1:])
    scales = (directions.abs().amax(dim=-1) / most).clamp(min=_SMALLEST).half()
    levels = (directions / scales[..., None]).round().clamp(-most, most).to(torch.int8)
    scales = scales.where(finite, math.nan)
    return {"weights": weights.half(), "directions": levels if whole else _in_pairs(levels), "scales": scales}


def delta_at(factors: Mapping[str, Tensor], index: int) -> Tensor:
    """The deltas (n, tokens, width) of n images, whose factors are stacked, at one of the s steps, float32."""
    shares = factors["weights"][:, index, :, None].float() * factors["scales"].float()
    return torch.einsum("nrt,nrtw->ntw", shares, _levels(factors["directions"]).float())


def _in_pairs(levels: Tensor) -> Tensor:
    """Levels in -7..7 (…, width) → bytes (…, width / 2), the first of each pair in the lower half."""
    halves = (levels + _MIDDLE).to(torch.uint8)
    return halves[..., ::2] | halves[..., 1::2] << 4


def _levels(directions: Tensor) -> Tensor:
    """Levels (…, width) of directions, of either kind."""
    if directions.dtype is torch.int8:
        return directions
    return torch.stack((directions & 15, directions >> 4), dim=-1).flatten(-2).to(torch.int8) - _MIDDLE
