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
    """Budget of a fit: Adam's first rate, its iterations per embedding at most, and when a row has enough.

    A row has enough once its error is below `tolerance`, or once an iteration took less than the share `min_gain`
    off it (0: never). `guidance_scales` are those of steps 1..N. `branch` names the branch of guidance whose embedding
    is learned; the other's is given and stays.
    """

    guidance_scales: tuple[float, ...]
    max_iterations: int
    learning_rate: float
    tolerance: float
    min_gain: float = 0.0
    branch: Literal["conditional", "unconditional"] = "conditional"


@dataclass(frozen=True, slots=True)
class Fit:
    """What a fit found.

    Attributes:
        embeddings: (s, n, tokens, width), one per step or segment of steps; index 0 belongs to step 1.
        iterations: (n,) gradient steps that each row took.
        converged: (n,) bool, whether every embedding of a row had enough before its iterations ran out.
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
    converged = torch.ones(n, dtype=torch.bool)
    start = start.float()
    z, fitted = trajectory[n_steps], start
    for step in range(n_steps, 0, -1):
        warm = start.lerp(fitted, _WARMTH)
        z, fitted, taken, enough = _fit_step(predict, z, trajectory[step - 1], warm, other, schedule, step, settings)
        embeddings.append(fitted)
        iterations += taken
        converged &= enough
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
    """Fit the embeddings of one step → (landed latents, embeddings, iterations and convergence per row)."""
    n = len(z)
    steps = torch.full((n,), step, device=z.device)
    constant = _constant_branch(predict, z, step, other, settings)
    landed, fitted, least = torch.empty_like(goal), warm.clone(), torch.full((n,), torch.inf, device=z.device)
    taken, enough = torch.zeros(n, dtype=torch.long), torch.zeros(n, dtype=torch.bool)
    active, rows, adam, before = torch.arange(n, device=z.device), warm, Adam.of(warm), least.clone()
    for iteration in range(settings.max_iterations + 1):
        last = iteration == settings.max_iterations
        rows = rows.detach().requires_grad_(not last)
        with torch.set_grad_enabled(not last):
            learned = predict(z[active], steps[active], rows)
            output = _guided(None if constant is None else constant[active], learned, step, settings)
            arrived = step_down(z[active], output, schedule, step)
            losses = (arrived - goal[active]).square().mean(dim=(1, 2, 3))
        # Not-a-number is no loss to keep nor one to stop at: it shows in the landing, and fails the row.
        better = ~(losses.detach() >= least[active])
        kept = active[better]
        landed[kept], fitted[kept], least[kept] = (x.detach()[better] for x in (arrived, rows, losses))
        going = ~_has_enough(losses.detach(), before, settings)
        enough[active[~going].cpu()] = True
        if last or not going.any():
            break
        # A sum over rows keeps each row's gradient what it would be alone.
        (gradient,) = torch.autograd.grad(losses.sum(), rows)
        active, before = active[going], losses.detach()[going]
        direction, adam = adam.kept(going).direction(gradient[going])
        rate = settings.learning_rate * (1 - iteration / settings.max_iterations)
        rows = rows[going] - rate * direction
        taken[active.cpu()] += 1
    return landed, fitted, taken, enough


def _has_enough(losses: Tensor, before: Tensor, settings: FitSettings) -> Tensor:
    """Which rows (n,) are done, given their losses now and one iteration before."""
    stalled = losses > (1 - settings.min_gain) * before if settings.min_gain else torch.zeros_like(losses).bool()
    return (losses < settings.tolerance) | stalled


def fit_per_segment(
    predict: PredictAt,
    trajectory: Tensor,
    start: Tensor,
    other: Tensor,
    schedule: NoiseSchedule,
    settings: FitSettings,
    segments: int = 1,
) -> Fit:
    """Fit one embedding per segment of steps, `segments` of them: smaller artifacts, the smallest with one for all.

    Arguments are as those of `fit_per_step`. From the noise down, each segment's embedding starts half-way between
    `start` and the last segment's, as there.
    """
    n_steps, n = schedule.num_inference_steps, trajectory.shape[1]
    start, other = start.float(), other.expand(n, -1, -1)
    embeddings, iterations = [], torch.zeros(n, dtype=torch.long)
    converged = torch.ones(n, dtype=torch.bool)
    fitted = start
    for segment in range(segments - 1, -1, -1):
        steps = [step for step in range(n_steps, 0, -1) if segment_of(step, n_steps, segments) == segment]
        warm = start.lerp(fitted, _WARMTH)
        fitted, taken, enough = _fit_segment(predict, trajectory, warm, other, schedule, steps, settings)
        embeddings.append(fitted)
        iterations += taken
        converged &= enough
    z = trajectory[n_steps]
    with torch.no_grad():
        for step in range(n_steps, 0, -1):
            rows = embeddings[segments - 1 - segment_of(step, n_steps, segments)]
            z = step_down(z, _guided_output(predict, z, step, rows, other, settings), schedule, step)
    return Fit(torch.stack(embeddings[::-1]), iterations, converged, z)


def segment_of(step: int, n_steps: int, segments: int) -> int:
    """The segment 0..segments - 1 that a step 1..N belongs to; all are of one length, or nearly."""
    return (step - 1) * segments // n_steps


def _fit_segment(
    predict: PredictAt,
    trajectory: Tensor,
    warm: Tensor,
    other: Tensor,
    schedule: NoiseSchedule,
    steps: list[int],
    settings: FitSettings,
) -> tuple[Tensor, Tensor, Tensor]:
    """Fit one embedding per row for the given steps together → (embeddings, iterations and convergence per row).

    Each round visits every step once and moves each row's embedding against that step's error from the stored
    trajectory. A row stops after a round with which it has enough in the mean, or after `max_iterations` rounds.
    Adam's rate falls linearly to zero over the rounds, since no embedding suits all steps and a constant
    rate would end wherever the last step pulled it.
    """
    n = len(warm)
    fitted, iterations = warm, torch.zeros(n, dtype=torch.long)
    enough = torch.zeros(n, dtype=torch.bool)
    active, adam = torch.arange(n, device=warm.device), Adam.of(warm)
    before = torch.full((n,), torch.inf, device=warm.device)
    for round_ in range(settings.max_iterations):
        rate = settings.learning_rate * (1 - round_ / settings.max_iterations)
        error = torch.zeros(len(active), device=warm.device)
        rows = fitted[active]
        for step in steps:
            rows = rows.detach().requires_grad_()
            z, goal = trajectory[step, active], trajectory[step - 1, active]
            output = _guided_output(predict, z, step, rows, other[active], settings)
            losses = (step_down(z, output, schedule, step) - goal).square().mean(dim=(1, 2, 3))
            (gradient,) = torch.autograd.grad(losses.sum(), rows)
            direction, adam = adam.direction(gradient)
            rows = rows.detach() - rate * direction
            error += losses.detach() / len(steps)
        fitted = fitted.index_copy(0, active, rows)
        iterations[active.cpu()] += len(steps)
        going = ~_has_enough(error, before, settings)
        enough[active[~going].cpu()] = True
        if not going.any():
            break
        active, adam, before = active[going], adam.kept(going), error[going]
    return fitted, iterations, enough


def _guided_output(
    predict: PredictAt, z: Tensor, step: int, rows: Tensor, other: Tensor, settings: FitSettings
) -> Tensor:
    constant = _constant_branch(predict, z, step, other, settings)
    return _guided(constant, predict(z, torch.full((len(z),), step, device=z.device), rows), step, settings)


def _guided(constant: Tensor | None, learned: Tensor, step: int, settings: FitSettings) -> Tensor:
    if constant is None:
        return learned.float()
    scale = settings.guidance_scales[step - 1]
    if settings.branch == "conditional":
        return guided(constant, learned.float(), scale)
    return guided(learned.float(), constant, scale)


def _constant_branch(predict: PredictAt, z: Tensor, step: int, other: Tensor, settings: FitSettings) -> Tensor | None:
    """The output of the branch whose embedding stays; None where guidance is 1, and the conditional one is all."""
    if settings.guidance_scales[step - 1] == 1 and settings.branch == "conditional":
        return None
    with torch.no_grad():
        return predict(z, torch.full((len(z),), step, device=z.device), other.expand(len(z), -1, -1)).float()
