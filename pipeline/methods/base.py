"""What every inversion method is: how it inverts, and which embedding stands for the image at each step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pipeline.config import InversionSettings
from pipeline.diffusion.fit import PredictAt
from pipeline.diffusion.schedule import NoiseSchedule
from pipeline.diffusion.solver import Predict


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
Learned = Callable[[Mapping[str, Tensor], Tensor, int], Tensor]


@dataclass(frozen=True, slots=True)
class Method:
    """One published method.

    Attributes:
        invert: (network, schedule, z_0 (n, c, h, w), source (n, tokens, width), unconditional
            (1, tokens, width), settings) → what to store.
        learned: (stored tensors of n rows, source (n, tokens, width), step 1..N) → the embedding
            (n, tokens, width) that stands for each image at that step.
    """

    invert: Invert
    learned: Learned


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
