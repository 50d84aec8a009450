"""What the methods share that learn one branch's embeddings: the fit, and reading back what it found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from pipeline.diffusion.fit import FitSettings, fit_per_segment, fit_per_step, segment_of
from pipeline.methods.base import Inverted, Task


def fitted(
    task: Task, trajectory: Tensor, start: Tensor, other: Tensor, branch: Literal["conditional", "unconditional"]
) -> Inverted:
    """Fit one branch's embeddings from `start` to a trajectory (N + 1, n, c, h, w) while the `other` branch's stay."""
    settings, schedule = task.settings, task.schedule

    def predict(z: Tensor, steps: Tensor, embedding: Tensor) -> Tensor:
        return task.network.predict(z, schedule.timesteps[steps - 1], embedding)

    budget = FitSettings(
        tuple(settings.scale_at(step) for step in range(1, schedule.num_inference_steps + 1)),
        settings.max_iterations,
        settings.learning_rate,
        settings.tolerance,
        settings.min_gain,
        branch,
    )
    if settings.embeddings == "per-step":
        found = fit_per_step(predict, trajectory, start, other, schedule, budget, task.slots)
    else:
        segments = settings.segments if settings.embeddings == "per-segment" else 1
        found = fit_per_segment(predict, trajectory, start, other, schedule, budget, segments, task.slots)
    tensors = {"trajectory": trajectory.transpose(0, 1), "embeddings": found.embeddings.transpose(0, 1)}
    return Inverted(tensors, found.z_0, found.iterations, found.converged)


def learned_at(tensors: Mapping[str, Tensor], step: int) -> Tensor:
    """The stored embeddings (n, tokens, width) of a step, from "embeddings" (n, segments, tokens, width)."""
    n_steps, segments = tensors["trajectory"].shape[1] - 1, tensors["embeddings"].shape[1]
    return tensors["embeddings"][:, segment_of(step, n_steps, segments)].float()
