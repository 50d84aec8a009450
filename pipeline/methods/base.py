"""What every inversion method is: how it inverts, and which embedding stands for the image at each step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from pipeline.config import InversionSettings
from pipeline.diffusion.fit import FitSettings, PredictAt, fit_per_step, fit_shared
from pipeline.diffusion.guidance import guided
from pipeline.diffusion.schedule import NoiseSchedule
from pipeline.diffusion.solver import Predict, denoise, invert, step_down


class Network(Protocol):
    """The part of a model that methods see."""

    def predict(self, z: Tensor, timestep: Tensor, embedding: Tensor, structure_of: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Inverted:
    """What a method found for a batch of n images.

    Attributes:
        tensors: what the method stores, rows first: each (n, …).
        z_0: (n, c, h, w) where the method's own reconstruction lands.
        iterations: (n,) gradient steps taken.
    """

    tensors: dict[str, Tensor]
    z_0: Tensor
    iterations: Tensor


Invert = Callable[[Network, NoiseSchedule, Tensor, Tensor, Tensor, InversionSettings], Inverted]
Branches = Callable[[Mapping[str, Tensor], Tensor, Tensor, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Method:
    """One published method.

    Attributes:
        invert: (network, schedule, z_0 (n, c, h, w), source (n, tokens, width), unconditional
            (1, tokens, width), settings) → what to store.
        branches: (stored tensors of n rows, source (n, tokens, width), null (n, tokens, width), step 1..N) → the
            embeddings (n, tokens, width) of guidance's unconditional and conditional branch that stand for each
            image at that step.
        eta: randomness of the steps that the method samples with, as in `step_down`.
        residual: (stored tensors of n rows, step 1..N) → what is added (n, c, h, w) to latents after that step, which
            brings the source back to the trajectory; None adds nothing.
    """

    invert: Invert
    branches: Branches
    eta: float = 0.0
    residual: Callable[[Mapping[str, Tensor], int], Tensor] | None = None


def fitted(
    network: Network,
    schedule: NoiseSchedule,
    z_0: Tensor,
    source: Tensor,
    start: Tensor,
    other: Tensor,
    branch: Literal["conditional", "unconditional"],
    settings: InversionSettings,
) -> Inverted:
    """Invert images under their source prompts without guidance, and fit one branch's embeddings from `start`."""
    trajectory = invert(predictor(network, schedule, source), z_0, schedule, settings.refine_iterations)
    budget = FitSettings(
        settings.guidance_scale, settings.max_iterations, settings.learning_rate, settings.tolerance, branch
    )
    fit = fit_per_step if settings.embeddings == "per-step" else fit_shared
    found = fit(predictor_at(network, schedule), trajectory, start, other, schedule, budget)
    tensors = {"trajectory": trajectory.transpose(0, 1), "embeddings": found.embeddings.transpose(0, 1)}
    return Inverted(tensors, found.z_0, found.iterations)


def corrected(
    network: Network,
    schedule: NoiseSchedule,
    trajectory: Tensor,
    branches: tuple[Tensor, Tensor],
    guidance_scale: float,
    eta: float,
) -> Inverted:
    """What guided sampling has to add after each step to stay on the trajectory (N + 1, n, c, h, w)."""
    n, n_steps = trajectory.shape[1], schedule.num_inference_steps
    both = torch.cat([embedding.expand(n, -1, -1) for embedding in branches])
    z, residuals = _as_stored(trajectory[n_steps]), []
    for step in range(n_steps, 0, -1):
        with torch.no_grad():
            output = network.predict(torch.cat((z, z)), schedule.timesteps[step - 1].expand(2 * n), both)
        arrived = step_down(z, guided(output[:n], output[n:], guidance_scale), schedule, step, eta)
        residuals.append(_as_stored(trajectory[step - 1] - arrived))
        # Going on from where the stored numbers lead keeps their rounding from adding up.
        z = arrived + residuals[-1]
    tensors = {"trajectory": trajectory.transpose(0, 1), "residuals": torch.stack(residuals[::-1], dim=1)}
    return Inverted(tensors, z, torch.zeros(n, dtype=torch.long))


def _as_stored(tensor: Tensor) -> Tensor:
    return tensor.half().float()


def residual_at(tensors: Mapping[str, Tensor], step: int) -> Tensor:
    """The stored residual (n, c, h, w) of a step, from "residuals" (n, N, c, h, w)."""
    return tensors["residuals"][:, step - 1].float()


def learned_at(tensors: Mapping[str, Tensor], step: int) -> Tensor:
    """The stored embeddings (n, tokens, width) of a step, from "embeddings" (n, N or 1, tokens, width)."""
    embeddings = tensors["embeddings"]
    return embeddings[:, 0 if embeddings.shape[1] == 1 else step - 1].float()


def replay(
    network: Network,
    schedule: NoiseSchedule,
    z: Tensor,
    branches: Callable[[int], tuple[Tensor, Tensor]],
    guidance_scale: float,
) -> Tensor:
    """Where guided sampling leads from noise latents (n, c, h, w) under each step's embeddings; without gradients."""
    n = len(z)

    def predict(z: Tensor, step: int) -> Tensor:
        both = torch.cat([embedding.expand(n, -1, -1) for embedding in branches(step)])
        output = network.predict(torch.cat((z, z)), schedule.timesteps[step - 1].expand(2 * n), both)
        return guided(output[:n], output[n:], guidance_scale)

    with torch.no_grad():
        return denoise(predict, z, schedule)


def predictor_at(network: Network, schedule: NoiseSchedule) -> PredictAt:
    """The network as a function of steps per row instead of training timesteps."""

    def predict(z: Tensor, steps: Tensor, embedding: Tensor) -> Tensor:
        return network.predict(z, schedule.timesteps[steps - 1], embedding)

    return predict


def predictor(network: Network, schedule: NoiseSchedule, embedding: Tensor) -> Predict:
    """The network under one embedding (n, tokens, width) for every step; without gradients."""

    def predict(z: Tensor, step: int) -> Tensor:
        with torch.no_grad():
            return network.predict(z, schedule.timesteps[step - 1].expand(len(z)), embedding.expand(len(z), -1, -1))

    return predict
