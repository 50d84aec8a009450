"""Adam for a batch of rows, each with its own moments, and an epsilon that knows each row's gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

_BETAS: Final = (0.9, 0.999)
# Epsilon, as a multiple of the row's root mean square gradient. Adam's absolute 1e-8 is far below any gradient
# here: coordinates that carry only rounding noise would move as far as the others, differently in each
# batch, and away from the prompt for nothing (infra/decisions/0006).
_EPSILON: Final = 5.0
_SMALLEST: Final = 1e-30  # a row without any gradient stays where it is


@dataclass(frozen=True, slots=True)
class Adam:
    """The moments of rows (n, ...) that have all taken the same number of steps (Kingma and Ba, 2015, alg. 1)."""

    first: Tensor
    second: Tensor
    steps: int = 0

    @staticmethod
    def of(rows: Tensor) -> Adam:
        """A fresh state for rows (n, ...)."""
        return Adam(torch.zeros_like(rows), torch.zeros_like(rows))

    def kept(self, rows: Tensor) -> Adam:
        """The state of some rows, given as indices or as a mask."""
        return Adam(self.first[rows], self.second[rows], self.steps)

    def direction(self, gradient: Tensor) -> tuple[Tensor, Adam]:
        """Gradients (n, ...) → what to subtract from the rows at a rate of 1, and the state after it.

        A first step along a gradient of equal coordinates moves each by 1, as Adam's does.
        """
        steps = self.steps + 1
        first = self.first.lerp(gradient, 1 - _BETAS[0])
        second = self.second.lerp(gradient.square(), 1 - _BETAS[1])
        corrected = second / (1 - _BETAS[1] ** steps)
        typical = corrected.flatten(1).mean(dim=1).sqrt().view(-1, *[1] * (gradient.dim() - 1))
        scale = (corrected.sqrt() + _EPSILON * typical) / (1 + _EPSILON) + _SMALLEST
        return first / (1 - _BETAS[0] ** steps) / scale, Adam(first, second, steps)
