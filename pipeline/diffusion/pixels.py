"""Pictures as levels 0..255, in which they come and go, and as values in [0, 1], with which networks compute."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Pixels = NDArray[np.uint8]  # (h, w, 3)


def as_tensor(images: Sequence[Pixels]) -> Tensor:
    """Pictures of one size, uint8 (h, w, 3) → (n, 3, h, w) in [0, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def to_bytes(values: Tensor) -> Tensor:
    """Values in [0, 1] → uint8, to the nearest level."""
    return (values.float() * 255).round().clamp(0, 255).to(torch.uint8)


def as_pixels(images: Tensor) -> list[Pixels]:
    """Pictures (n, 3, h, w) in [0, 1] → uint8 (h, w, 3), each."""
    return list(to_bytes(images.cpu()).permute(0, 2, 3, 1).numpy())
