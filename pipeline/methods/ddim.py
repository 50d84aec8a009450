"""DDIM inversion (Song et al., 2021, *Denoising Diffusion Implicit Models*, section 4.3).

Inverts under the source prompt without guidance, where it reconstructs; guidance above 1 afterwards
departs from the image, the more the higher. Stores the trajectory. Use it for the cheapest inversion,
or as the base line that the others correct.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.config import InversionSettings
from pipeline.diffusion.guidance import guided
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
    trajectory = invert(predictor(network, schedule, source), z_0, schedule, settings.refine_iterations)
    source_branch = predictor(network, schedule, source)
    null_branch = predictor(network, schedule, unconditional)

    def replay(z: Tensor, step: int) -> Tensor:
        return guided(null_branch(z, step), source_branch(z, step), settings.guidance_scale)

    reached = denoise(replay, trajectory[-1], schedule)
    return Inverted({"trajectory": trajectory.transpose(0, 1)}, reached, torch.zeros(len(z_0), dtype=torch.long))


def _learned(tensors: Mapping[str, Tensor], source: Tensor, step: int) -> Tensor:
    return source


DDIM = Method(_invert, _learned)
