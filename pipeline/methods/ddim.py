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
from pipeline.diffusion.schedule import NoiseSchedule
from pipeline.diffusion.solver import invert
from pipeline.methods.base import Inverted, Method, Network, predictor, replay


def _invert(
    network: Network,
    schedule: NoiseSchedule,
    z_0: Tensor,
    source: Tensor,
    unconditional: Tensor,
    settings: InversionSettings,
) -> Inverted:
    trajectory = invert(predictor(network, schedule, source), z_0, schedule, settings.refine_iterations)
    reached = replay(network, schedule, trajectory[-1], lambda _: (unconditional, source), settings.guidance_scale)
    return Inverted({"trajectory": trajectory.transpose(0, 1)}, reached, torch.zeros(len(z_0), dtype=torch.long))


def _branches(tensors: Mapping[str, Tensor], source: Tensor, null: Tensor, step: int) -> tuple[Tensor, Tensor]:
    return null, source


DDIM = Method(_invert, _branches)
