"""Prompt tuning inversion (Dong et al., ICCV 2023, arXiv 2305.04441).

Inverts under the source prompt without guidance, or without a prompt where none is given, then learns the
*conditional* embedding that makes guided sampling retrace the inverted trajectory: one per step
(algorithm 1), or one for all steps. The paper always inverts without a prompt; guidance then pulls the
learned embedding to the empty prompt, and edits start from there (infra/decisions/0005). The learned
embedding is a visual prompt: it says what the words left out. Stores the trajectory and the embeddings.
The method of choice for edits that keep everything else.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pipeline.config import InversionSettings
from pipeline.diffusion.fit import FitSettings, fit_per_step, fit_shared
from pipeline.diffusion.schedule import NoiseSchedule
from pipeline.diffusion.solver import invert
from pipeline.methods.base import Inverted, Method, Network, predictor, predictor_at


def _invert(
    network: Network,
    schedule: NoiseSchedule,
    z_0: Tensor,
    source: Tensor,
    unconditional: Tensor,
    settings: InversionSettings,
) -> Inverted:
    trajectory = invert(predictor(network, schedule, source), z_0, schedule, settings.refine_iterations)
    budget = FitSettings(settings.guidance_scale, settings.max_iterations, settings.learning_rate, settings.tolerance)
    fit = fit_per_step if settings.embeddings == "per-step" else fit_shared
    found = fit(predictor_at(network, schedule), trajectory, source, unconditional, schedule, budget)
    tensors = {"trajectory": trajectory.transpose(0, 1), "embeddings": found.embeddings.transpose(0, 1)}
    return Inverted(tensors, found.z_0, found.iterations)


def _learned(tensors: Mapping[str, Tensor], source: Tensor, step: int) -> Tensor:
    embeddings = tensors["embeddings"]
    return embeddings[:, 0 if embeddings.shape[1] == 1 else step - 1].float()


PROMPT_TUNING = Method(_invert, _learned)
