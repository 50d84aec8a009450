"""Embedding fits: gradient descent on the reconstruction loss, the network frozen, every row on its own.

The rows of a batch share the network's calls and nothing else: each has its own loss, its own Adam
state and its own stop, and leaves the batch when it is done. A batch therefore gives each image what a
batch of one would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from pipeline.diffusion.adam import Adam
from pipeline.diffusion.guidance import guided
from pipeline.diffusion.schedule import NoiseSchedule
from pipeline.diffusion.solver import step_down

# (latents (n, c, h, w), steps (n,) in 1..N, embeddings (n, tokens, width)) → the network's output.
PredictAt = Callable[[Tensor, Tensor, Tensor], Tensor]


# How much of the last step's embedding the next one starts from; the rest is the prompt's own. A full warm
# start adds the moves of all steps up, until the embedding no longer takes an edit (infra/decisions/0006).
_WARMTH: Final = 0.5


@dataclass(frozen=True, slots=True)
class FitSettings:
    """Budget of a fit: Adam's first rate, its iterations per embedding at most, and the error that is enough.

    `branch` names the branch of guidance whose embedding is learned; the other's is given and stays.
    """

    guidance_scale: float
    max_iterations: int
    learning_rate: float
    tolerance: float
    branch: Literal["conditional", "unconditional"] = "conditional"


@dataclass(frozen=True, slots=True)
class Fit:
    """What a fit found.

    Attributes:
        embeddings: (N, n, tokens, width), index 0 belongs to step 1; or (1, n, …) where one serves all.
        iterations: (n,) gradient steps that each row took.
        converged: (n,) bool, whether a row stopped of itself in every fit of its own, before the iterations ran out.
        z_0: (n, c, h, w) where the fitted embeddings lead from the trajectory's noise.
    """

    embeddings: Tensor
    iterations: Tensor
    converged: Tensor
    z_0: Tensor


def fit_per_step(
    predict: PredictAt,
    trajectory: Tensor,
    start: Tensor,
    other: Tensor,
    schedule: NoiseSchedule,
    settings: FitSettings,
) -> Fit:
    """Fit one embedding per step (Dong et al., 2023, alg. 1; Mokady et al., 2023, alg. 1).

    From the noise down, each step's embedding starts half-way between `start` (n, tokens, width) and the last
    step's, and is moved until the guided step lands on the stored trajectory (N + 1, n, c, h, w). The next step
    starts from where the fitted one really landed, so errors do not add up. The other branch's embedding is
    `other` (1 or n, tokens, width).
    """
    n_steps, n = schedule.num_inference_steps, trajectory.shape[1]
    embeddings, iterations = [], torch.zeros(n, dtype=torch.long)
    converged, start = torch.ones(n, dtype=torch.bool), start.float()
    z, fitted = trajectory[n_steps], start
    for step in range(n_steps, 0, -1):
        warm = start.lerp(fitted, _WARMTH)
        z, fitted, taken, stopped = _fit_step(predict, z, trajectory[step - 1], warm, other, schedule, step, settings)
        embeddings.append(fitted)
        iterations += taken
        converged &= stopped
    return Fit(torch.stack(embeddings[::-1]), iterations, converged, z)


def _fit_step(
    predict: PredictAt,
    z: Tensor,
    goal: Tensor,
    warm: Tensor,
    other: Tensor,
    schedule: NoiseSchedule,
    step: int,
    settings: FitSettings,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fit the embeddings of one step → (landed latents, embeddings, iterations per row, which rows stopped)."""
    steps = torch.full((len(z),), step, device=z.device)
    constant = _constant_branch(predict, z, steps, other)
    landed, fitted, taken = torch.empty_like(goal), warm.clone(), torch.zeros(len(z), dtype=torch.long)
    stopped = torch.zeros(len(z), dtype=torch.bool)
    active, rows, adam = torch.arange(len(z), device=z.device), warm, Adam.of(warm)
    for iteration in range(settings.max_iterations + 1):
        last = iteration == settings.max_iterations
        rows = rows.detach().requires_grad_(not last)
        with torch.set_grad_enabled(not last):
            output = _guided(constant[active], predict(z[active], steps[active], rows), settings)
            arrived = step_down(z[active], output, schedule, step)
            losses = (arrived - goal[active]).square().mean(dim=(1, 2, 3))
        landed[active], fitted[active] = arrived.detach(), rows.detach()
        going = ~(losses < settings.tolerance)
        stopped[active[~going].cpu()] = True
        if last or not going.any():
            break
        # A sum over rows keeps each row's gradient what it would be alone.
        (gradient,) = torch.autograd.grad(losses.sum(), rows)
        active = active[going]
        direction, adam = adam.kept(going).direction(gradient[going])
        rate = settings.learning_rate * (1 - iteration / settings.max_iterations)
        rows = rows[going] - rate * direction
        taken[active.cpu()] += 1
    return landed, fitted, taken, stopped


def fit_shared(
    predict: PredictAt,
    trajectory: Tensor,
    start: Tensor,
    other: Tensor,
    schedule: NoiseSchedule,
    settings: FitSettings,
) -> Fit:
    """Fit one embedding per row for all steps together: the smallest artifact.

    Each round visits every step once, from the noise down, and moves each row's embedding against that
    step's error from the stored trajectory. A row stops after a round whose mean error is below the
    tolerance, or after `max_iterations` rounds. Adam's rate falls linearly to zero over the rounds,
    since no embedding suits all steps and a constant rate would end wherever the last step pulled it.
    """
    n_steps, n = schedule.num_inference_steps, trajectory.shape[1]
    fitted, iterations, other = start.float(), torch.zeros(n, dtype=torch.long), other.expand(n, -1, -1)
    active, adam, converged = torch.arange(n, device=start.device), Adam.of(fitted), torch.zeros(n, dtype=torch.bool)
    for round_ in range(settings.max_iterations):
        rate = settings.learning_rate * (1 - round_ / settings.max_iterations)
        error = torch.zeros(len(active), device=start.device)
        rows = fitted[active]
        for step in range(n_steps, 0, -1):
            rows = rows.detach().requires_grad_()
            z, goal = trajectory[step, active], trajectory[step - 1, active]
            output = _guided_output(predict, z, step, rows, other[active], settings)
            losses = (step_down(z, output, schedule, step) - goal).square().mean(dim=(1, 2, 3))
            (gradient,) = torch.autograd.grad(losses.sum(), rows)
            direction, adam = adam.direction(gradient)
            rows = rows.detach() - rate * direction
            error += losses.detach() / n_steps
        fitted = fitted.index_copy(0, active, rows)
        iterations[active.cpu()] += n_steps
        going = ~(error < settings.tolerance)
        converged[active[~going].cpu()] = True
        if not going.any():
            break
        active, adam = active[going], adam.kept(going)
    z = trajectory[n_steps]
    with torch.no_grad():
        for step in range(n_steps, 0, -1):
            z = step_down(z, _guided_output(predict, z, step, fitted, other, settings), schedule, step)
    return Fit(fitted[None], iterations, converged, z)


def _guided_output(
    predict: PredictAt, z: Tensor, step: int, rows: Tensor, other: Tensor, settings: FitSettings
) -> Tensor:
    steps = torch.full((len(z),), step, device=z.device)
    constant = _constant_branch(predict, z, steps, other)
    return _guided(constant, predict(z, steps, rows), settings)


def _guided(constant: Tensor, learned: Tensor, settings: FitSettings) -> Tensor:
    if settings.branch == "conditional":
        return guided(constant, learned.float(), settings.guidance_scale)
    return guided(learned.float(), constant, settings.guidance_scale)


def _constant_branch(predict: PredictAt, z: Tensor, steps: Tensor, other: Tensor) -> Tensor:
    with torch.no_grad():
        return predict(z, steps, other.expand(len(z), -1, -1)).float()
