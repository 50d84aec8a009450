"""Negative-prompt inversion (Miyake et al., 2023, arXiv 2305.16807).

Inverts under the source prompt without guidance, and puts the source prompt where guidance has the empty one: both
branches then agree on the source, and guidance of any scale leads back along the inverted trajectory, without any
fit. Stores the trajectory. Reconstructs as `ddim` at guidance 1 does, at any guidance: the choice where a fit costs
too much and edits need strong guidance.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pipeline.diffusion.solver import denoise
from pipeline.methods.base import Inverted, Method, Task, without_fit


def _find(task: Task, trajectory: Tensor) -> Inverted:
    # Equal branches: guidance of any scale is the source branch alone.
    reached = denoise(task.predict_source, trajectory[-1], task.schedule)
    return without_fit({"trajectory": trajectory.transpose(0, 1)}, reached)


def _branches(tensors: Mapping[str, Tensor], source: Tensor, null: Tensor, step: int) -> tuple[Tensor, Tensor]:
    return source, source


NEGATIVE_PROMPT = Method(_find, _branches)
