"""Pictures as values in [0, 1], with which networks compute."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.pixels import Pixels, as_levels


def as_tensor(images: Sequence[Pixels]) -> Tensor:
    """Pictures of one size, uint8 (h, w, 3) → (n, 3, h, w) in [0, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def as_pixels(images: Tensor) -> list[Pixels]:
    """Pictures (n, 3, h, w) in [0, 1] → uint8 (h, w, 3), each."""
    return list(as_levels(images.float().cpu().permute(0, 2, 3, 1).numpy()))
