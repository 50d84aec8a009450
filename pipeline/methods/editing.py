"""Making edits from inversions: the loop that all methods share, and the mask that finds where to act."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import torch
from torch import Tensor

from pipeline.diffusion.blend import blend
from pipeline.diffusion.control import Wording
from pipeline.diffusion.guidance import guided
from pipeline.diffusion.interpolate import interpolate, joint_target
from pipeline.diffusion.mask import attention_mask, soft_mask
from pipeline.diffusion.schedule import NoiseSchedule
from pipeline.diffusion.solver import denoise
from pipeline.methods.base import Method, Network
from pipeline.methods.holding import Call, Held, Images, call_of, changed_words, mixing_of, weighted_targets
from pipeline.methods.variation import Variation
from pipeline.settings import MASK_LEVELS

_MASK_THRESHOLD: Final = 0.18
_MASK_SOFTNESS: Final = 0.10
_ATTENTION_THRESHOLD: Final = 0.3
_ATTENTION_SOFTNESS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Conditions:
    """What n edits ask for, one row each.

    Attributes:
        images: which image each is of.
        source: (n, tokens, width) embedding of each source prompt.
        has_source: (n,) bool, whether that prompt was given; without one `source` is the empty prompt's.
        target: (n, tokens, width) embedding of each target prompt; of several at once, the sum of theirs, each times
            its own strength.
        total: (n,) sum of these strengths; 1 for a single prompt.
        one_target: (n,) bool, whether there is a single prompt, whose words have places.
        negative: (n, tokens, width) embedding of each negative prompt.
        null: (n, tokens, width) embedding of the empty prompt.
        strength, guidance_scale: (n,).
        fitted_scale: (n,) the guidance at which each image was inverted: where its method leads back to it.
        hold_structure: (n,) in [0, 1], share of the steps, from the noise down, that keep the source's shapes.
        hold_self_attention: (n,) the same for its self-attention.
        hold_cross_attention: (n,) the same for its cross-attention, as `wording` maps its tokens.
        wording: how the prompts' tokens correspond, and what weights the targets' have.
        mask: (n, 1, h, w) in [0, 1] over latents, 1 may change; None lets everything change.
        variation: (n,) in [0, 1], share of fresh noise in each step; None where no edit draws any.
        seeds: of that noise, for each edit.
    """

    images: Images
    source: Tensor
    has_source: Tensor
    target: Tensor
    total: Tensor
    one_target: Tensor
    negative: Tensor
    null: Tensor
    strength: Tensor
    guidance_scale: Tensor
    fitted_scale: Tensor
    hold_structure: Tensor
    hold_self_attention: Tensor
    hold_cross_attention: Tensor
    wording: Wording
    mask: Tensor | None = None
    variation: Tensor | None = None
    seeds: tuple[int, ...] = ()


def edit_latents(
    network: Network,
    schedule: NoiseSchedule,
    method: Method,
    tensors: Mapping[str, Tensor],
    conditions: Conditions,
    *,
    along_source: bool,
    guides: Callable[[int], bool],
    skip: float = 0.0,
) -> Tensor:
    """Synthesise n edits (n, c, h, w) from stored tensors, each (n, …).

    The inverted noise holds the structure, the interpolated embedding carries the meaning, and outside
    the mask every step returns to the source's own trajectory. `along_source` moves embeddings by
    target − source where a source prompt is known; `guides` says which steps are guided, the others follow the prompts
    alone; `skip` leaves out that share of the steps, from the noise down.

    During its shares of the steps a row also takes shapes and attention from its source, which runs beside it as it
    was inverted: at strength 0, with the guidance of the inversion and no negative prompt. An edit with these is one
    with its source at strength 0, so that it still begins at the reconstruction. Edits of one image share its source.
    """
    trajectory = tensors["trajectory"].float()
    n, n_steps, images = len(trajectory), schedule.num_inference_steps, conditions.images
    share = conditions.variation
    varied = None if share is None else Variation(share, conditions.seeds, len(images.first), method.eta)
    call_at = _calls(conditions, n_steps, guides)

    def predict(z: Tensor, step: int) -> Tensor:
        """Outputs for n edits and the sources of their images; of sources that are not held any more, zeros."""
        unconditional, learned = method.branches(tensors, conditions.source, conditions.null, step)
        # A negative prompt moves the unconditional branch as it would move the empty prompt.
        away = unconditional + (conditions.negative - conditions.null)
        edited = _edited_embedding(learned, conditions, along_source=along_source)
        call = call_at(step)
        branches = [torch.cat((away, unconditional[call.sources])), torch.cat((edited, learned[call.sources]))]
        outputs = network.predict(
            z[call.rows].repeat(call.branches, 1, 1, 1),
            schedule.timesteps[step - 1].expand(call.branches * len(call.rows)),
            torch.cat(branches[-call.branches :]),
            call.control,
        ).chunk(call.branches)
        output = torch.zeros_like(z)
        output[call.rows] = outputs[0] if call.branches == 1 else guided(outputs[0], outputs[1], call.scales)
        return output

    def corrected(z: Tensor, step: int) -> Tensor:
        if method.residual is not None:
            residual = images.with_sources(method.residual(tensors, step + 1))
            z = z + (residual if varied is None else varied.kept * residual)
        if varied is not None:
            z = z + varied.drawn(z, schedule, step + 1)
        if conditions.mask is None:
            return z
        return torch.cat((blend(z[:n], trajectory[:, step], conditions.mask), z[n:]))

    start = n_steps - math.floor(skip * n_steps)
    noise = images.with_sources(trajectory[:, start])
    eta = method.eta if varied is None else varied.eta
    with torch.no_grad():
        return denoise(predict, noise, schedule, corrected, start=start, eta=eta)[:n]


def _calls(conditions: Conditions, n_steps: int, guides: Callable[[int], bool]) -> Callable[[int], Call]:
    """The call of the network at a step 1..N; a GPU is waited for where one differs from the last, not at each."""
    mixing = mixing_of(conditions.wording, conditions.strength)
    scales = conditions.guidance_scale, conditions.fitted_scale
    shares = torch.stack((conditions.hold_structure, conditions.hold_self_attention, conditions.hold_cross_attention))
    steps_held = (shares * n_steps).cpu()

    @cache
    def call(held: tuple[tuple[bool, ...], ...], *, guides: bool) -> Call:
        active = torch.tensor(held, device=shares.device)
        return call_of(conditions.images, mixing, Held(*active), *scales, guides=guides)

    return lambda step: call(tuple(map(tuple, (steps_held > n_steps - step).tolist())), guides=guides(step))


def _edited_embedding(learned: Tensor, conditions: Conditions, *, along_source: bool) -> Tensor:
    base = learned
    if along_source:
        base = torch.where(conditions.has_source.view(-1, 1, 1), conditions.source, learned)
    target = joint_target(conditions.target, conditions.total, base)
    return interpolate(learned, target, conditions.strength, base)


def automatic_mask(
    network: Network,
    schedule: NoiseSchedule,
    method: Method,
    tensors: Mapping[str, Tensor],
    conditions: Conditions,
    kind: Literal["auto", "attention", "both"] = "auto",
) -> Tensor:
    """Soft mask (n, 1, h, w) of where an edit acts, found along the inverted trajectory.

    `auto` is where source and target predictions differ; `attention` where either attends to words that the other
    lacks, or that have a weight, which takes a source prompt and a single target to know: without, a row's mask is
    `auto`'s;
    `both` is where both say so.
    """
    trajectory = tensors["trajectory"].float()
    n, n_steps = len(trajectory), schedule.num_inference_steps
    # Which words of a source are watched depends on the edit.
    images = conditions.images if kind == "auto" else conditions.images.apart()
    words, control = changed_words(conditions.wording), weighted_targets(conditions.wording, len(images.first))
    differences, attention = [], []
    for step in sorted({max(1, round(level * n_steps)) for level in MASK_LEVELS}):
        _, learned = method.branches(tensors, conditions.source, conditions.null, step)
        source = torch.where(conditions.has_source.view(-1, 1, 1), conditions.source, learned)
        target = joint_target(conditions.target, conditions.total, source)
        z, prompts = images.with_sources(trajectory[:, step]), torch.cat((target, source[images.first]))
        timesteps = schedule.timesteps[step - 1].expand(len(z))
        with torch.no_grad():
            if kind == "auto":
                output = network.predict(z, timesteps, prompts, control)
            else:
                output, maps = network.predict_watching(z, timesteps, prompts, words, control)
                attention.append(torch.cat((maps[n:], maps[:n]), dim=1))
        differences.append((output[:n] - output[n:][images.of]).abs())
    mask = soft_mask(torch.stack(differences).mean(dim=0), _MASK_THRESHOLD, _MASK_SOFTNESS)
    if kind == "auto":
        return mask
    watched = attention_mask(torch.stack(attention).mean(dim=0), _ATTENTION_THRESHOLD, _ATTENTION_SOFTNESS)
    worded = torch.minimum(mask, watched) if kind == "both" else watched
    knows_words = conditions.has_source & conditions.one_target
    return torch.where(knows_words.view(-1, 1, 1, 1), worded, mask)
