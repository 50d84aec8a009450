"""Variations of an edit: steps that draw part of their noise anew, each row from a generator of its own.

A step of DDIM with eta > 0 (Song et al., 2021, eq. 12 and 16): the same edit, told apart by its seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.diffusion.schedule import NoiseSchedule


class Variation:
    """The noise of n edits and of the sources beside them, which draw none.

    Args:
        share: (n,) in [0, 1], how much of what a step may draw anew each edit draws: its eta; 0 draws nothing.
        seeds: of each edit's noise, which depends on nothing else.
        sources: how many there are.
        of_method: eta of the method's own steps, whose noise the stored residuals are.
    """

    def __init__(self, share: Tensor, seeds: Sequence[int], sources: int, of_method: float) -> None:
        self._share = torch.cat((share, share.new_zeros(sources))).view(-1, 1, 1, 1)
        self._of_method = of_method
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    @property
    def eta(self) -> Tensor:
        """(rows, 1, 1, 1), as in `step_down`."""
        return self._share.clamp(min=self._of_method)

    @property
    def kept(self) -> Tensor:
        """What part of a stored residual is left (rows, 1, 1, 1): of noise that is drawn anew, the rest; else all."""
        return (1 - (self._share * self._of_method).square()).sqrt()

    def drawn(self, z: Tensor, schedule: NoiseSchedule, step: int) -> Tensor:
        """The noise that rows like z (rows, c, h, w) draw in the step down from `step`."""
        eps = torch.stack([torch.randn(z.shape[1:], generator=generator) for generator in self._generators]).to(z)
        return schedule.fresh_noise(step, self._share) * torch.cat((eps, torch.zeros_like(z[len(eps) :])))
