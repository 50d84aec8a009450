"""Latent blending: inside the mask the edit, outside the source's own trajectory."""

from __future__ import annotations

from torch import Tensor


def blend(edited: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """Mix latents (n, c, h, w) by a soft mask (n, 1, h, w): 1 takes the edit, 0 the source (Avrahami et al., 2023)."""
    return source + mask * (edited - source)
