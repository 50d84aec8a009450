"""The edit itself: how an embedding moves from what an image is towards what a prompt says."""

from __future__ import annotations

from torch import Tensor


def joint_target(weighted: Tensor, total: Tensor, base: Tensor) -> Tensor:
    """The one target that moves `base` as several move it together: `base + sum of s_i · (target_i − base)`.

    `weighted` is the sum of `s_i · target_i`, `total` (n,) that of the `s_i`: of a single target at strength 1 it is
    that target, bit for bit. Embeddings are (n, tokens, width).
    """
    return weighted + (1 - total).view(-1, 1, 1) * base


def interpolate(learned: Tensor, target: Tensor, strength: Tensor, source: Tensor | None = None) -> Tensor:
    """Move `learned` by `strength` (n,): towards `target`, or along `target − source` where that is given.

    Strength 0 is `learned`. Strength 1 is `target` in the first mode (Dong et al., 2023, eq. 8); in the
    second it keeps whatever `learned` knows about the image beyond its source prompt.
    Embeddings are (n, tokens, width).
    """
    s = strength.view(-1, 1, 1)
    return learned + s * (target - (learned if source is None else source))
