"""What the methods share that store residuals: what guided sampling misses the trajectory by, step for step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.diffusion.solver import step_down
from pipeline.methods.base import Inverted, Task, without_fit


def corrected(task: Task, trajectory: Tensor, eta: float) -> Inverted:
    """Find what has to be added after each guided step to stay on the trajectory (N + 1, n, c, h, w)."""
    n_steps = task.schedule.num_inference_steps
    z, residuals = _as_stored(trajectory[n_steps]), []
    for step in range(n_steps, 0, -1):
        arrived = step_down(z, task.predict_guided(z, step, task.null, task.source), task.schedule, step, eta)
        residuals.append(_as_stored(trajectory[step - 1] - arrived))
        # Going on from where the stored numbers lead keeps their rounding from adding up.
        z = arrived + residuals[-1]
    tensors = {"trajectory": trajectory.transpose(0, 1), "residuals": torch.stack(residuals[::-1], dim=1)}
    return without_fit(tensors, z)


def _as_stored(tensor: Tensor) -> Tensor:
    return tensor.half().float()


def residual_at(tensors: Mapping[str, Tensor], step: int) -> Tensor:
    """The stored residual (n, c, h, w) of a step, from "residuals" (n, N, c, h, w)."""
    return tensors["residuals"][:, step - 1].float()
