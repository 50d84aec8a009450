"""Negative-prompt inversion (Miyake et al., 2023, arXiv 2305.16807).

Inverts under the source prompt without guidance, and puts the source prompt where guidance has the empty one: both
branches then agree on the source, and guidance of any scale leads back along the inverted trajectory, without any
fit. Stores the trajectory. Reconstructs as `ddim` at guidance 1 does, at any guidance: the choice where a fit costs
too much and edits need strong guidance.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.config import InversionSettings
from pipeline.diffusion.schedule import NoiseSchedule
from pipeline.diffusion.solver import denoise, invert
from pipeline.methods.base import Inverted, Method, Network, predictor


def _invert(
    network: Network,
    schedule: NoiseSchedule,
    z_0: Tensor,
    source: Tensor,
    unconditional: Tensor,
    settings: InversionSettings,
) -> Inverted:
    along_source = predictor(network, schedule, source)
    trajectory = invert(along_source, z_0, schedule, settings.refine_iterations)
    # Equal branches: guidance of any scale is the source branch alone.
    reached = denoise(along_source, trajectory[-1], schedule)
    return Inverted({"trajectory": trajectory.transpose(0, 1)}, reached, torch.zeros(len(z_0), dtype=torch.long))


def _branches(tensors: Mapping[str, Tensor], source: Tensor, null: Tensor, step: int) -> tuple[Tensor, Tensor]:
    return source, source


NEGATIVE_PROMPT = Method(_invert, _branches)
