"""What the methods share that learn one branch's embeddings: the fit, and reading back what it found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from pipeline.diffusion.factors import delta_at, factored
from pipeline.diffusion.fit import FitSettings, fit_per_segment, fit_per_step, segment_of, whole
from pipeline.diffusion.solver import denoise
from pipeline.methods.base import Branches, Inverted, Task, without_fit


def fitted(
    task: Task,
    trajectory: Tensor,
    start: Tensor,
    other: Tensor,
    branch: Literal["conditional", "unconditional"],
    branches: Branches,
) -> Inverted:
    """Fit one branch's embeddings from `start` to a trajectory (N + 1, n, c, h, w) while the `other` branch's stay.

    Of a compact artifact's embeddings only their factors are kept, and the reconstruction is where these lead.
    """
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
    keep = whole if settings.artifact == "full" else _directions
    if settings.embeddings == "per-step":
        found = fit_per_step(predict, trajectory, start, other, schedule, budget, task.slots, keep)
    else:
        segments = settings.segments if settings.embeddings == "per-segment" else 1
        found = fit_per_segment(predict, trajectory, start, other, schedule, budget, segments, task.slots, keep)
    tensors = {"trajectory": trajectory.transpose(0, 1), **found.kept}
    z_0 = found.z_0 if keep is whole else _retraced(task, tensors, branches)
    return Inverted(tensors, z_0, found.iterations, found.converged)


def _directions(embeddings: Tensor, start: Tensor) -> dict[str, Tensor]:
    """Of what was learned keep what a compact artifact does."""
    return factored(embeddings - start)


def reread(task: Task, trajectory: Tensor, kept: Mapping[str, Tensor], branches: Branches) -> Inverted:
    """What was fitted before, from a trajectory (N + 1, n, c, h, w) and the factors that a compact artifact keeps."""
    tensors = {"trajectory": trajectory.transpose(0, 1), **kept}
    return without_fit(tensors, _retraced(task, tensors, branches))


def _retraced(task: Task, tensors: Mapping[str, Tensor], branches: Branches) -> Tensor:
    """Where stored embeddings lead (n, c, h, w) from the trajectory's noise."""

    def predict(z: Tensor, step: int) -> Tensor:
        return task.predict_guided(z, step, *branches(tensors, task.source, task.null, step))

    return denoise(predict, tensors["trajectory"][:, -1], task.schedule)


def learned_at(tensors: Mapping[str, Tensor], start: Tensor, step: int) -> Tensor:
    """The embeddings (n, tokens, width) of a step, fitted from `start` (n, tokens, width).

    Stored are "embeddings" (n, s, tokens, width), or the factors of what the fit added.
    """
    whole = "embeddings" in tensors
    n_steps, segments = tensors["trajectory"].shape[1] - 1, tensors["embeddings" if whole else "weights"].shape[1]
    segment = segment_of(step, n_steps, segments)
    return tensors["embeddings"][:, segment].float() if whole else start + delta_at(tensors, segment)
