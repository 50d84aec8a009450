"""Adam for one embedding, with an epsilon that knows the size of its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

_BETAS: Final = (0.9, 0.999)
# Epsilon, as a multiple of the gradient's root mean square. Adam's absolute 1e-8 is far below any gradient
# here: coordinates that carry only rounding noise would move as far as the others, differently in each
# batch, and away from the prompt for nothing (infra/decisions/0006).
_EPSILON: Final = 5.0
_SMALLEST: Final = 1e-30  # an embedding without any gradient stays where it is


@dataclass(frozen=True, slots=True)
class Adam:
    """The moments of an embedding after some steps (Kingma and Ba, 2015, alg. 1)."""

    first: Tensor
    second: Tensor
    steps: int = 0

    @staticmethod
    def of(embedding: Tensor) -> Adam:
        """A fresh state."""
        return Adam(torch.zeros_like(embedding), torch.zeros_like(embedding))

    def direction(self, gradient: Tensor) -> tuple[Tensor, Adam]:
        """A gradient → what to subtract from the embedding at a rate of 1, and the state after it.

        A first step along a gradient of equal coordinates moves each by 1, as Adam's does.
        """
        steps = self.steps + 1
        first = self.first.lerp(gradient, 1 - _BETAS[0])
        second = self.second.lerp(gradient.square(), 1 - _BETAS[1])
        corrected = second / (1 - _BETAS[1] ** steps)
        typical = corrected.mean().sqrt()
        scale = (corrected.sqrt() + _EPSILON * typical) / (1 + _EPSILON) + _SMALLEST
        return first / (1 - _BETAS[0] ** steps) / scale, Adam(first, second, steps)
