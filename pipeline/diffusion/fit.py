"""Embedding fits: gradient descent on the reconstruction loss, the network frozen, every row on its own.

The rows of a batch share the network's calls and nothing else: each has its own loss, its own Adam
state and its own stop. A batch therefore gives each image what a batch of one would.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Literal

import torch
from torch import Tensor

from pipeline.diffusion.adam import Adam
from pipeline.diffusion.guidance import guided
from pipeline.diffusion.schedule import NoiseSchedule
from pipeline.diffusion.slots import Evaluate, Land, PredictAt, Row, run
from pipeline.diffusion.solver import step_down

# How much of the last step's embedding the next one starts from; the rest is the prompt's own. A full warm
# start adds the moves of all steps up, until the embedding no longer takes an edit (infra/decisions/0006).
_WARMTH: Final = 0.5
# How much of the earlier steps' gradients goes into a step's first one. Steps near each other ask for nearly the same
# change, and a gradient near the floor of its loss is small and turns with the slightest difference of its latents,
# such as a batch's rounding makes: their mean does not (infra/decisions/0006).
_PERSISTENCE: Final = 0.8


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

    def rate(self, iteration: int) -> float:
        """Adam's rate at an iteration, or round, 0..max_iterations - 1."""
        return self.learning_rate * (1 - iteration / self.max_iterations)


@dataclass(frozen=True, slots=True)
class Fit:
    """What a fit found.

    Attributes:
        kept: what was kept of each row's embeddings, each (n, …).
        iterations: (n,) gradient steps that each row took.
        converged: (n,) bool, whether every embedding of a row had enough before its iterations ran out.
        z_0: (n, c, h, w) where the fitted embeddings lead from the trajectory's noise.
    """

    kept: dict[str, Tensor]
    iterations: Tensor
    converged: Tensor
    z_0: Tensor


# (one row's embeddings (s, tokens, width), one per step or segment of steps, index 0 belonging to step 1; the one
# (tokens, width) that the fit started from) → what is kept of them. Those of all rows together may be larger than the
# model: 9 GB of 32 images at Stable Diffusion 3's size.
Keep = Callable[[Tensor, Tensor], dict[str, Tensor]]


def whole(embeddings: Tensor, _start: Tensor) -> dict[str, Tensor]:
    """Keep a row's embeddings as they are."""
    return {"embeddings": embeddings}


def fit_per_step(
    predict: PredictAt,
    trajectory: Tensor,
    start: Tensor,
    other: Tensor,
    schedule: NoiseSchedule,
    settings: FitSettings,
    slots: int | None = None,
    keep: Keep = whole,
) -> Fit:
    """Fit one embedding per step (Dong et al., 2023, alg. 1; Mokady et al., 2023, alg. 1).

    From the noise down, each step's embedding starts half-way between `start` (n, tokens, width) and the last
    step's, and is moved until the guided step lands on the stored trajectory (N + 1, n, c, h, w). The next step
    starts from where the fitted one really landed, so errors do not add up. The other branch's embedding is
    `other` (1 or n, tokens, width). At most `slots` rows, or all, go through the network together; of what each row
    learned `keep` says what is kept.
    """
    return _fit(_per_step, predict, trajectory, start, other, schedule, settings, slots, keep)


def fit_per_segment(
    predict: PredictAt,
    trajectory: Tensor,
    start: Tensor,
    other: Tensor,
    schedule: NoiseSchedule,
    settings: FitSettings,
    segments: int = 1,
    slots: int | None = None,
    keep: Keep = whole,
) -> Fit:
    """Fit one embedding per segment of steps, `segments` of them: smaller artifacts, the smallest with one for all.

    Arguments are as those of `fit_per_step`. From the noise down, each segment's embedding starts half-way between
    `start` and the last segment's, as there.
    """
    return _fit(partial(_per_segment, segments), predict, trajectory, start, other, schedule, settings, slots, keep)


def segment_of(step: int, n_steps: int, segments: int) -> int:
    """The segment 0..segments - 1 that a step 1..N belongs to; all are of one length, or nearly."""
    return (step - 1) * segments // n_steps


@dataclass(frozen=True, slots=True)
class _Task:
    """One row's: its trajectory (N + 1, c, h, w), the embeddings to start from and to keep (tokens, width)."""

    trajectory: Tensor
    start: Tensor
    other: Tensor
    schedule: NoiseSchedule
    settings: FitSettings
    gains: list[float]  # see `_gains`

    @property
    def steps(self) -> range:
        """From the noise down."""
        return range(self.schedule.num_inference_steps, 0, -1)


# What one row's fit comes to: embeddings (s, tokens, width), iterations, convergence, z_0 (c, h, w).
_Found = tuple[Tensor, int, bool, Tensor]


def _fit(
    algorithm: Callable[[_Task], Row[_Found]],
    predict: PredictAt,
    trajectory: Tensor,
    start: Tensor,
    other: Tensor,
    schedule: NoiseSchedule,
    settings: FitSettings,
    slots: int | None,
    keep: Keep,
) -> Fit:
    n = trajectory.shape[1]
    start, other, gains = start.float(), other.expand(n, -1, -1), _gains(schedule, settings)
    tasks = (_Task(trajectory[:, i], start[i], other[i], schedule, settings, gains) for i in range(n))

    def fitted(task: _Task) -> Row[tuple[dict[str, Tensor], int, bool, Tensor]]:
        embeddings, iterations, converged, z_0 = yield from algorithm(task)
        return keep(embeddings, task.start), iterations, converged, z_0

    kept, iterations, converged, z_0 = zip(*run(predict, map(fitted, tasks), slots or n), strict=True)
    stacked = {name: torch.stack([row[name] for row in kept]) for name in kept[0]}
    return Fit(stacked, torch.tensor(iterations), torch.tensor(converged), torch.stack(z_0))


def _gains(schedule: NoiseSchedule, settings: FitSettings) -> list[float]:
    """What the learned branch's output is multiplied by on its way to each landing; index 0 belongs to step 1."""
    on_cpu, nothing, one = schedule.to(torch.device("cpu")), torch.zeros(1), torch.ones(1)
    return [
        float(step_down(nothing, _guided(nothing, one, step, settings), on_cpu, step))
        for step in range(1, schedule.num_inference_steps + 1)
    ]


def _per_step(task: _Task) -> Row[_Found]:
    z, fitted, embeddings, slope = task.trajectory[-1], task.start, list[Tensor](), None
    total, converged, expected = 0, True, task.settings.max_iterations
    for step in task.steps:
        land = yield from _landing_of(task, z, step)
        start = task.start.lerp(fitted, _WARMTH)
        found = yield from _fit_step(land, start, slope, expected, task.settings)
        z, fitted, slope, expected = found.z, found.embedding, found.slope, found.iterations
        embeddings.append(fitted)
        total, converged = total + found.iterations, converged and found.converged
    return torch.stack(embeddings[::-1]), total, converged, z


def _landing_of(task: _Task, z: Tensor, step: int) -> Row[partial[Land]]:
    """A step from latents (c, h, w) as a function of the learned embedding; asks for the branch that stays, once."""
    constant = torch.zeros_like(z)
    if task.settings.guidance_scales[step - 1] != 1 or task.settings.branch == "unconditional":
        constant = yield Evaluate(z, step, task.other)
    rest = step_down(z, _guided(constant, torch.zeros_like(z), step, task.settings), task.schedule, step)
    return partial(Land, z, step, rest=rest, gain=task.gains[step - 1], goal=task.trajectory[step - 1])


def _guided(constant: Tensor, learned: Tensor, step: int, settings: FitSettings) -> Tensor:
    scale = settings.guidance_scales[step - 1]
    if settings.branch == "conditional":
        return guided(constant, learned, scale)
    return guided(learned, constant, scale)


@dataclass(frozen=True, slots=True)
class _Step:
    """One step's fit: where it lands, its embedding, the first gradients of the steps so far, and how it ended."""

    z: Tensor
    embedding: Tensor
    slope: Tensor | None
    iterations: int
    converged: bool


def _fit_step(
    land: partial[Land], embedding: Tensor, slope: Tensor | None, expected: int, settings: FitSettings
) -> Row[_Step]:
    """Move one step's embedding, the `slope` of the steps before it given.

    `expected` iterations are likely, as many as the step before took: up to these, landings come with gradients.
    """
    landed, fitted, least = embedding, embedding, math.inf
    adam, before = Adam.of(embedding), math.inf
    for iteration in range(settings.max_iterations + 1):
        enough = partial(_is_enough, before=before, settings=settings)
        last = iteration == settings.max_iterations
        ask = land(embedding=embedding, enough=enough, descends=iteration < expected and not last)
        landing = yield ask
        # Not-a-number is no error to keep nor one to stop at: it shows in the landing, and fails the row.
        if not landing.error >= least:
            landed, fitted, least = landing.z, embedding, landing.error
        if last or enough(landing.error):
            break
        gradient = landing.gradient
        if gradient is None:
            # The verdict stands, though a call with gradients may round the error to its other side.
            gradient = (yield replace(ask, enough=_never, descends=True)).gradient
        if iteration == 0:
            gradient = slope = gradient if slope is None else slope.lerp(gradient, 1 - _PERSISTENCE)
        direction, adam = adam.direction(gradient)
        embedding = embedding - _vigour(landing.error, before, settings) * settings.rate(iteration) * direction
        before = landing.error
    return _Step(landed, fitted, slope, iteration, enough(landing.error))


def _is_enough(error: float, before: float, settings: FitSettings) -> bool:
    """Whether a row is done, given its error now and one iteration before."""
    return _vigour(error, before, settings) <= 0


def _vigour(error: float, before: float, settings: FitSettings) -> float:
    """The share of Adam's move that a row still makes, given its error now and one iteration before.

    It falls to zero where the row has enough: from twice the tolerance, or twice the gain that would do. A row that
    stops at a threshold, and one that rounding puts on its other side, then end alike.
    """
    excess = progress = math.inf
    if settings.tolerance > 0:
        excess = error / settings.tolerance - 1
    if settings.min_gain > 0 and before < math.inf:
        gain = 1 - error / before if before > 0 else 0.0
        progress = gain / settings.min_gain - 1
    return min(excess, progress, 1.0)


def _per_segment(segments: int, task: _Task) -> Row[_Found]:
    n_steps = task.schedule.num_inference_steps
    fitted, embeddings, total, converged = task.start, list[Tensor](), 0, True
    for segment in range(segments - 1, -1, -1):
        steps = [step for step in task.steps if segment_of(step, n_steps, segments) == segment]
        start = task.start.lerp(fitted, _WARMTH)
        fitted, taken, enough = yield from _fit_segment(task, steps, start)
        embeddings.append(fitted)
        total, converged = total + taken, converged and enough
    found = torch.stack(embeddings[::-1])
    z = task.trajectory[-1]
    for step in task.steps:
        land = yield from _landing_of(task, z, step)
        landing = yield land(embedding=found[segment_of(step, n_steps, segments)], enough=_never, descends=False)
        z = landing.z
    return found, total, converged, z


def _fit_segment(task: _Task, steps: list[int], embedding: Tensor) -> Row[tuple[Tensor, int, bool]]:
    """Fit one embedding for the given steps together → the embedding, iterations, and whether it had enough.

    Each round visits every step once and moves the embedding against that step's error from the stored
    trajectory. A row stops after a round with which it has enough in the mean, or after `max_iterations` rounds.
    Adam's rate falls linearly to zero over the rounds, since no embedding suits all steps and a constant
    rate would end wherever the last step pulled it.
    """
    lands = []
    for step in steps:
        land = yield from _landing_of(task, task.trajectory[step], step)
        lands.append(land)
    adam, before, vigour, taken = Adam.of(embedding), math.inf, 1.0, 0
    for round_ in range(task.settings.max_iterations):
        error = 0.0
        for land in lands:
            landing = yield land(embedding=embedding, enough=_never, descends=True)
            direction, adam = adam.direction(landing.gradient)
            embedding = embedding - vigour * task.settings.rate(round_) * direction
            error += landing.error / len(lands)
        taken += len(lands)
        vigour = _vigour(error, before, task.settings)
        if vigour <= 0:
            return embedding, taken, True
        before = error
    return embedding, taken, False


def _never(_error: float) -> bool:
    return False
