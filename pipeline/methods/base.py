"""What every inversion method is: how it inverts, and which embeddings stand for the image at each step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pipeline.diffusion.control import NO_CONTROL, Control
from pipeline.diffusion.factors import FACTORS
from pipeline.diffusion.guidance import guided
from pipeline.diffusion.schedule import NoiseSchedule
from pipeline.diffusion.solver import invert
from pipeline.settings import InversionSettings


class Network(Protocol):
    """The part of a model that methods see."""

    def predict(self, z: Tensor, timestep: Tensor, embedding: Tensor, control: Control = NO_CONTROL) -> Tensor: ...

    def predict_watching(
        self, z: Tensor, timestep: Tensor, embedding: Tensor, words: Tensor, control: Control = NO_CONTROL
    ) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, slots=True)
class Task:
    """n images to invert together, and what they are inverted with.

    Attributes:
        z_0: (n, c, h, w) the images' latents.
        source: (n, tokens, width) embedding of each source prompt.
        null: (n, tokens, width) embedding of the empty prompt.
        slots: how many images go through the network together, at most.
    """

    network: Network
    schedule: NoiseSchedule
    z_0: Tensor
    source: Tensor
    null: Tensor
    settings: InversionSettings
    slots: int

    @torch.no_grad()
    def predict_source(self, z: Tensor, step: int) -> Tensor:
        """The network's output for latents (n, c, h, w) at a step, under the source prompts alone."""
        return self._predict(z, step, self.source)

    @torch.no_grad()
    def predict_guided(self, z: Tensor, step: int, unconditional: Tensor, conditional: Tensor) -> Tensor:
        """The same, guided as the settings say from one embedding (n, tokens, width) to another."""
        scale = self.settings.scale_at(step)
        if scale == 1:
            return self._predict(z, step, conditional)
        return guided(self._predict(z, step, unconditional), self._predict(z, step, conditional), scale)

    def _predict(self, z: Tensor, step: int, embedding: Tensor) -> Tensor:
        timestep = self.schedule.timesteps[step - 1]
        parts = zip(torch.split(z, self.slots), torch.split(embedding, self.slots), strict=True)
        return torch.cat([self.network.predict(rows, timestep.expand(len(rows)), e) for rows, e in parts])


@dataclass(frozen=True, slots=True)
class Inverted:
    """What a method found for a batch of n images.

    Attributes:
        tensors: what the method stores, rows first: each (n, …).
        z_0: (n, c, h, w) where the method's own reconstruction lands.
        iterations: (n,) gradient steps taken.
        converged: (n,) bool, whether a fit stopped by itself; None where nothing is fitted.
    """

    tensors: dict[str, Tensor]
    z_0: Tensor
    iterations: Tensor
    converged: Tensor | None = None


# (stored tensors of n rows, source (n, tokens, width), null (n, tokens, width), step 1..N) → the embeddings
# (n, tokens, width) of guidance's unconditional and conditional branch that stand for each image at that step.
Branches = Callable[[Mapping[str, Tensor], Tensor, Tensor, int], tuple[Tensor, Tensor]]


def inverted_latents(task: Task) -> Tensor:
    """The images' inversion (N + 1, n, c, h, w) under their source prompts, without guidance."""
    return invert(task.predict_source, task.z_0, task.schedule, task.settings.refine_iterations)


@dataclass(frozen=True, slots=True)
class Method:
    """One published method.

    Attributes:
        find: the images and their latents on the way to noise (N + 1, n, c, h, w) → what to store of each.
        branches: as `Branches` says.
        latents: the images → those latents; by default their inversion under the source prompts without guidance.
        eta: randomness of the steps that the method samples with, as in `step_down`.
        residual: (stored tensors of n rows, step 1..N) → what is added (n, c, h, w) to latents after that step, which
            brings the source back to the trajectory; None adds nothing.
        reread: the images, their latents, and what a compact artifact keeps of each → what `find` had found; None finds
            it again, which takes no fit.
    """

    find: Callable[[Task, Tensor], Inverted]
    branches: Branches
    latents: Callable[[Task], Tensor] = inverted_latents
    eta: float = 0.0
    residual: Callable[[Mapping[str, Tensor], int], Tensor] | None = None
    reread: Callable[[Task, Tensor, Mapping[str, Tensor]], Inverted] | None = None

    def restored(self, task: Task, kept: Mapping[str, Tensor]) -> Inverted:
        """What was found for images, from what their compact artifacts keep: each (n, …)."""
        latents = kept["trajectory"].float().transpose(0, 1) if "trajectory" in kept else self.latents(task)
        return self.find(task, latents) if self.reread is None else self.reread(task, latents, kept)

    def stored(self, settings: InversionSettings) -> frozenset[str]:
        """Names of the tensors that an artifact of the method holds: all that `restored`, or an edit, reads."""
        if settings.artifact == "compact":
            factors = () if self.reread is None else FACTORS
            return frozenset({"z_0", *factors, *(() if settings.retraces else ("trajectory",))})
        learned = () if self.reread is None else ("embeddings",)
        return frozenset({"trajectory", "reconstruction", *learned, *(() if self.residual is None else ("residuals",))})


def prompts_alone(tensors: Mapping[str, Tensor], source: Tensor, null: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """The branches of a method that learns no embedding: the empty prompt's and the source prompt's."""
    return null, source


def without_fit(tensors: dict[str, Tensor], z_0: Tensor) -> Inverted:
    """What a method found that takes no gradient steps."""
    return Inverted(tensors, z_0, torch.zeros(len(z_0), dtype=torch.long))
