"""Joint refinement of an inversion, for any method: latents given embeddings, then embeddings given latents.

Plain inversion goes up without guidance and comes down with it, under embeddings that it did not know. Each round
inverts again along the predictions with which the method comes down (the fixed point of AIDI, Pan et al., 2023, now
under guidance and with the learned embeddings), and lets the method find what belongs to those latents. A row keeps
a round's result only where it reconstructs better.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.diffusion.solver import invert
from pipeline.methods.base import Inverted, Method, Task
from pipeline.settings import JOINT_ITERATIONS


def inverted(method: Method, task: Task) -> Inverted:
    """Invert images as the method does, and refine them for as many rounds as the settings say."""
    found = method.find(task, method.latents(task))
    for _ in range(task.settings.refine_rounds):
        found = _better(found, method.find(task, _latents_given(method, found, task)), task.z_0)
    return found


def _latents_given(method: Method, found: Inverted, task: Task) -> Tensor:
    """The images' latents (N + 1, n, c, h, w) along the method's own guided predictions."""

    def predict(z: Tensor, step: int) -> Tensor:
        unconditional, conditional = method.branches(found.tensors, task.source, task.null, step)
        return task.predict_guided(z, step, unconditional, conditional)

    iterations = max(JOINT_ITERATIONS, task.settings.refine_iterations)
    return invert(predict, task.z_0, task.schedule, iterations)


def _better(one: Inverted, other: Inverted, z_0: Tensor) -> Inverted:
    """Of each row the result that lands nearer to the image; both rounds' iterations count."""
    misses = [(found.z_0 - z_0).square().mean(dim=(1, 2, 3)) for found in (one, other)]
    better = misses[1] < misses[0]

    def chosen(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(better.to(a.device).view(-1, *[1] * (a.dim() - 1)), b, a)

    converged = None
    if one.converged is not None and other.converged is not None:
        converged = chosen(one.converged, other.converged)
    return Inverted(
        {name: chosen(tensor, other.tensors[name]) for name, tensor in one.tensors.items()},
        chosen(one.z_0, other.z_0),
        one.iterations + other.iterations,
        converged,
    )
