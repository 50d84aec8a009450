"""Making edits from inversions: the loop that all methods share, and the mask that finds where to act."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from pipeline.diffusion.blend import blend
from pipeline.diffusion.guidance import guided
from pipeline.diffusion.interpolate import interpolate
from pipeline.diffusion.mask import grow, soft_mask
from pipeline.diffusion.schedule import NoiseSchedule
from pipeline.diffusion.solver import denoise
from pipeline.methods.base import Method, Network

# Shares of the way to noise at which predictions are compared for a mask: where the layout is settled
# and the content is not (DiffEdit, Couairon et al., 2023, section 3.2, compares at one half).
_MASK_LEVELS: Final = (0.4, 0.5, 0.6, 0.7)
_MASK_THRESHOLD: Final = 0.18
_MASK_SOFTNESS: Final = 0.10
_MASK_GROWTH: Final = 1


@dataclass(frozen=True, slots=True)
class Conditions:
    """What n edits ask for, one row each.

    Attributes:
        source: (n, tokens, width) embedding of each source prompt.
        has_source: (n,) bool, whether that prompt was given; without one `source` is the empty prompt's.
        target: (n, tokens, width) embedding of each target prompt.
        unconditional: (n, tokens, width) embedding of each negative prompt.
        strength, guidance_scale: (n,).
        mask: (n, 1, h, w) in [0, 1] over latents, 1 may change; None lets everything change.
    """

    source: Tensor
    has_source: Tensor
    target: Tensor
    unconditional: Tensor
    strength: Tensor
    guidance_scale: Tensor
    mask: Tensor | None = None


def edit_latents(
    network: Network,
    schedule: NoiseSchedule,
    method: Method,
    tensors: Mapping[str, Tensor],
    conditions: Conditions,
    *,
    along_source: bool,
) -> Tensor:
    """Synthesise n edits (n, c, h, w) from stored tensors, each (n, …).

    The inverted noise holds the structure, the interpolated embedding carries the meaning, and outside
    the mask every step returns to the source's own trajectory. `along_source` moves embeddings by
    target − source where a source prompt is known.
    """
    trajectory = tensors["trajectory"].float()
    n = len(trajectory)
    timesteps = schedule.timesteps

    def predict(z: Tensor, step: int) -> Tensor:
        embedding = _edited_embedding(method, tensors, conditions, step, along_source=along_source)
        both = torch.cat((conditions.unconditional, embedding))
        output = network.predict(torch.cat((z, z)), timesteps[step - 1].expand(2 * n), both)
        return guided(output[:n], output[n:], conditions.guidance_scale)

    def hold(z: Tensor, step: int) -> Tensor:
        return z if conditions.mask is None else blend(z, trajectory[:, step], conditions.mask)

    with torch.no_grad():
        return denoise(predict, trajectory[:, -1], schedule, hold)


def _edited_embedding(
    method: Method, tensors: Mapping[str, Tensor], conditions: Conditions, step: int, *, along_source: bool
) -> Tensor:
    learned = method.learned(tensors, conditions.source, step)
    base = learned
    if along_source:
        base = torch.where(conditions.has_source.view(-1, 1, 1), conditions.source, learned)
    return interpolate(learned, conditions.target, conditions.strength, base)


def automatic_mask(
    network: Network,
    schedule: NoiseSchedule,
    method: Method,
    tensors: Mapping[str, Tensor],
    conditions: Conditions,
) -> Tensor:
    """Soft mask (n, 1, h, w) of where source and target predictions differ along the inverted trajectory."""
    trajectory = tensors["trajectory"].float()
    n, n_steps = len(trajectory), schedule.num_inference_steps
    differences = []
    for step in sorted({max(1, round(level * n_steps)) for level in _MASK_LEVELS}):
        learned = method.learned(tensors, conditions.source, step)
        source = torch.where(conditions.has_source.view(-1, 1, 1), conditions.source, learned)
        z = trajectory[:, step]
        with torch.no_grad():
            output = network.predict(
                torch.cat((z, z)), schedule.timesteps[step - 1].expand(2 * n), torch.cat((source, conditions.target))
            )
        differences.append((output[:n] - output[n:]).abs())
    mask = soft_mask(torch.stack(differences).mean(dim=0), _MASK_THRESHOLD, _MASK_SOFTNESS)
    return grow(mask, _MASK_GROWTH)
