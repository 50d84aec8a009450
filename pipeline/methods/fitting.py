"""What the methods share that learn one branch's embeddings: the fit, and reading back what it found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from pipeline.diffusion.fit import FitSettings, fit_per_step, fit_shared
from pipeline.methods.base import Inverted, Task


def fitted(task: Task, start: Tensor, other: Tensor, branch: Literal["conditional", "unconditional"]) -> Inverted:
    """Invert images, and fit one branch's embeddings from `start` while the `other` branch's stay."""
    settings, schedule = task.settings, task.schedule
    trajectory = task.trajectory()

    def predict(z: Tensor, steps: Tensor, embedding: Tensor) -> Tensor:
        return task.network.predict(z, schedule.timesteps[steps - 1], embedding)

    budget = FitSettings(
        settings.guidance_scale, settings.max_iterations, settings.learning_rate, settings.tolerance, branch
    )
    fit = fit_per_step if settings.embeddings == "per-step" else fit_shared
    found = fit(predict, trajectory, start, other, schedule, budget)
    tensors = {"trajectory": trajectory.transpose(0, 1), "embeddings": found.embeddings.transpose(0, 1)}
    return Inverted(tensors, found.z_0, found.iterations, found.converged)


def learned_at(tensors: Mapping[str, Tensor], step: int) -> Tensor:
    """The stored embeddings (n, tokens, width) of a step, from "embeddings" (n, N or 1, tokens, width)."""
    embeddings = tensors["embeddings"]
    return embeddings[:, 0 if embeddings.shape[1] == 1 else step - 1].float()
