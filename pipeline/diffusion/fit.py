"""Embedding fits: gradient descent on the reconstruction loss, the network frozen, every row on its own.

The rows of a batch share the network's calls and nothing else: each has its own loss, its own Adam
state and its own stop, and leaves the batch when it is done. A batch therefore gives each image what a
batch of one would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from pipeline.diffusion.guidance import guided
from pipeline.diffusion.schedule import NoiseSchedule
from pipeline.diffusion.solver import step_down

# (latents (n, c, h, w), steps (n,) in 1..N, embeddings (n, tokens, width)) → the network's output.
PredictAt = Callable[[Tensor, Tensor, Tensor], Tensor]


# How much of the last step's embedding the next one starts from; the rest is the prompt's own. Adam moves
# every coordinate by about its rate however small the gradient, and a full warm start adds that up over
# all steps until the embedding no longer takes an edit (infra/decisions/0006).
_WARMTH: Final = 0.5


@dataclass(frozen=True, slots=True)
class FitSettings:
    """Budget of a fit: Adam's rate, its iterations per embedding at most, and the error that is enough."""

    guidance_scale: float
    max_iterations: int
    learning_rate: float
    tolerance: float


@dataclass(frozen=True, slots=True)
class Fit:
    """What a fit found.

    Attributes:
        embeddings: (N, n, tokens, width), index 0 belongs to step 1; or (1, n, …) where one serves all.
        iterations: (n,) gradient steps that each row took.
        z_0: (n, c, h, w) where the fitted embeddings lead from the trajectory's noise.
    """

    embeddings: Tensor
    iterations: Tensor
    z_0: Tensor


def fit_per_step(
    predict: PredictAt,
    trajectory: Tensor,
    start: Tensor,
    unconditional: Tensor,
    schedule: NoiseSchedule,
    settings: FitSettings,
) -> Fit:
    """Fit one conditional embedding per step (prompt tuning inversion, Dong et al., 2023, alg. 1).

    From the noise down, each step's embedding starts half-way between `start` and the last step's, and is
    moved until the guided step lands on the stored trajectory (N + 1, n, c, h, w). The next step starts
    from where the fitted one really landed, so errors do not add up.
    """
    n_steps, n = schedule.num_inference_steps, trajectory.shape[1]
    embeddings, iterations = [], torch.zeros(n, dtype=torch.long)
    start = start.float()
    z, fitted = trajectory[n_steps], start
    for step in range(n_steps, 0, -1):
        warm = start.lerp(fitted, _WARMTH)
        z, fitted, taken = _fit_step(predict, z, trajectory[step - 1], warm, unconditional, schedule, step, settings)
        embeddings.append(fitted)
        iterations += taken
    return Fit(torch.stack(embeddings[::-1]), iterations, z)


def _fit_step(
    predict: PredictAt,
    z: Tensor,
    goal: Tensor,
    warm: Tensor,
    unconditional: Tensor,
    schedule: NoiseSchedule,
    step: int,
    settings: FitSettings,
) -> tuple[Tensor, Tensor, Tensor]:
    """Fit the embeddings of one step → (landed latents, embeddings, iterations per row)."""
    n = len(z)
    steps = torch.full((n,), step, device=z.device)
    constant = _constant_branch(predict, z, steps, unconditional)
    rows = [warm[i].clone().requires_grad_() for i in range(n)]
    optimizers = [torch.optim.Adam([row], lr=settings.learning_rate) for row in rows]
    landed, taken = torch.empty_like(goal), torch.zeros(n, dtype=torch.long)
    active = list(range(n))
    for iteration in range(settings.max_iterations + 1):
        last = iteration == settings.max_iterations
        with torch.set_grad_enabled(not last):
            conditional = predict(z[active], steps[active], torch.stack([rows[i] for i in active]))
            output = guided(constant[active], conditional.float(), settings.guidance_scale)
            arrived = step_down(z[active], output, schedule, step)
            losses = (arrived - goal[active]).square().mean(dim=(1, 2, 3))
        landed[active] = arrived.detach()
        going = [] if last else [k for k, loss in enumerate(losses.tolist()) if not loss < settings.tolerance]
        if not going:
            break
        # A sum over rows keeps each row's gradient what it would be alone.
        losses[going].sum().backward()  # type: ignore[no-untyped-call]
        active = [active[k] for k in going]
        for i in active:
            optimizers[i].step()
            optimizers[i].zero_grad()
            taken[i] += 1
    return landed, torch.stack([row.detach() for row in rows]), taken


def fit_shared(
    predict: PredictAt,
    trajectory: Tensor,
    start: Tensor,
    unconditional: Tensor,
    schedule: NoiseSchedule,
    settings: FitSettings,
) -> Fit:
    """Fit one conditional embedding per row for all steps together: the smallest artifact.

    Each round visits every step once, from the noise down, and moves each row's embedding against that
    step's error from the stored trajectory. A row stops after a round whose mean error is below the
    tolerance, or after `max_iterations` rounds. Adam's rate falls linearly to zero over the rounds,
    since no embedding suits all steps and a constant rate would end wherever the last step pulled it.
    """
    n_steps, n = schedule.num_inference_steps, trajectory.shape[1]
    rows = [start[i].float().clone().requires_grad_() for i in range(n)]
    optimizers = [torch.optim.Adam([row], lr=settings.learning_rate) for row in rows]
    iterations = torch.zeros(n, dtype=torch.long)
    active = list(range(n))
    for round_ in range(settings.max_iterations):
        rate = settings.learning_rate * (1 - round_ / settings.max_iterations)
        error = torch.zeros(len(active), device=trajectory.device)
        for step in range(n_steps, 0, -1):
            z, goal = trajectory[step, active], trajectory[step - 1, active]
            output = _guided_output(predict, z, step, [rows[i] for i in active], unconditional, settings)
            losses = (step_down(z, output, schedule, step) - goal).square().mean(dim=(1, 2, 3))
            losses.sum().backward()  # type: ignore[no-untyped-call]
            for i in active:
                optimizers[i].param_groups[0]["lr"] = rate
                optimizers[i].step()
                optimizers[i].zero_grad()
            error += losses.detach() / n_steps
        iterations[active] += n_steps
        active = [i for i, e in zip(active, error.tolist(), strict=True) if not e < settings.tolerance]
        if not active:
            break
    found = [row.detach() for row in rows]
    z = trajectory[n_steps]
    with torch.no_grad():
        for step in range(n_steps, 0, -1):
            z = step_down(z, _guided_output(predict, z, step, found, unconditional, settings), schedule, step)
    return Fit(torch.stack(found)[None], iterations, z)


def _guided_output(
    predict: PredictAt, z: Tensor, step: int, rows: list[Tensor], unconditional: Tensor, settings: FitSettings
) -> Tensor:
    steps = torch.full((len(z),), step, device=z.device)
    constant = _constant_branch(predict, z, steps, unconditional)
    return guided(constant, predict(z, steps, torch.stack(rows)).float(), settings.guidance_scale)


def _constant_branch(predict: PredictAt, z: Tensor, steps: Tensor, unconditional: Tensor) -> Tensor:
    with torch.no_grad():
        return predict(z, steps, unconditional.expand(len(z), -1, -1)).float()
