"""Direct inversion (Ju et al., *PnP Inversion*, ICLR 2024, arXiv 2310.01506).

Inverts under the source prompt without guidance, and stores by how much each guided step then misses the trajectory.
Adding it back after each step leads to the image, at any guidance, without a fit. The paper corrects the source
branch alone; here the edit takes the same correction, so that it begins at the image and leaves it as its strength
grows. Stores the trajectory and the residuals. The choice where reconstruction has to be exact and a fit costs too
much.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pipeline.config import InversionSettings
from pipeline.diffusion.schedule import NoiseSchedule
from pipeline.diffusion.solver import invert
from pipeline.methods.base import Inverted, Method, Network, corrected, predictor, residual_at


def _invert(
    network: Network,
    schedule: NoiseSchedule,
    z_0: Tensor,
    source: Tensor,
    unconditional: Tensor,
    settings: InversionSettings,
) -> Inverted:
    trajectory = invert(predictor(network, schedule, source), z_0, schedule, settings.refine_iterations)
    return corrected(network, schedule, trajectory, (unconditional, source), settings.guidance_scale, eta=0.0)


def _branches(tensors: Mapping[str, Tensor], source: Tensor, null: Tensor, step: int) -> tuple[Tensor, Tensor]:
    return null, source


DIRECT = Method(_invert, _branches, residual=residual_at)
