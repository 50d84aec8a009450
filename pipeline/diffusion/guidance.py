"""Classifier-free guidance."""

from __future__ import annotations

from torch import Tensor


def guided(unconditional: Tensor, conditional: Tensor, guidance_scale: Tensor | float) -> Tensor:
    """`u + w · (c − u)` (Ho and Salimans, 2022); a tensor of scales (n,) has one per row."""
    if isinstance(guidance_scale, Tensor):
        guidance_scale = guidance_scale.view(-1, *[1] * (conditional.dim() - 1))
    return unconditional + guidance_scale * (conditional - unconditional)
