"""Inversions and requests to edits: a batch of one working size through the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.diffusion.mask import feather, grow
from pipeline.diffusion.schedule import NoiseSchedule
from pipeline.errors import RowError
from pipeline.inversion import Inversion, stacked
from pipeline.methods import METHODS
from pipeline.methods.base import Method
from pipeline.methods.editing import Conditions, automatic_mask, edit_latents
from pipeline.methods.holding import Images
from pipeline.models.backbone import Backbone
from pipeline.pixels import Pixels
from pipeline.records import Deltas
from pipeline.settings import EditSettings

Values = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class EditRequest:
    """One edit of the inversion at index `inversion`; `mask` is at the working size, 255 may change.

    With `deltas`, prompts and strengths of their own, it makes several changes at once, and `prompt` is only read.
    Of the controls, None takes those of the settings; `settings` has those of `records.OF_ONE_EDIT` that differ.
    """

    inversion: int
    prompt: str
    strength: float = 1.0
    negative_prompt: str = ""
    guidance_scale: float | None = None
    hold_structure: float | None = None
    mask: Pixels | None = None
    hold_self_attention: float | None = None
    hold_cross_attention: float | None = None
    word_weights: Mapping[str, float] | None = None
    deltas: Deltas = ()
    variation: float | None = None
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def targets(self) -> Deltas:
        """All prompts that the edit moves to, with their own strengths."""
        return self.deltas or ((self.prompt, 1.0),)


@dataclass(frozen=True, slots=True)
class Synthesis:
    """One edit at the working size: pictures (h, w, 3) and mask (h, w), float16 in [0, 1], finer than eight bits.

    `truncated` says that the model's text window does not hold all of a prompt, be it the target, source or negative;
    `keeps_shape` whether the edit holds the photograph's structure.
    """

    edited: Values
    reconstruction: Values
    mask: Values
    truncated: bool = False
    keeps_shape: bool = True


def edit_batch(
    model: Backbone, inversions: list[Inversion], requests: list[EditRequest], settings: EditSettings
) -> list[Synthesis | RowError]:
    """Make one edit of each inversion; all of one size and settings, and either all or none of strength 0."""
    tensors = stacked(model, inversions)
    images = Images.named([request.inversion for request in requests], model.device)
    reconstruction = model.decode_latents(tensors["reconstruction"][images.first].float()).half()[images.of].cpu()
    if requests[0].strength == 0:
        nothing = torch.zeros_like(reconstruction[:, :1])
        rows = zip(reconstruction, nothing, inversions, requests, strict=True)
        return [_synthesis(r, r, m, truncated=_truncated(model, of, request)) for r, m, of, request in rows]
    inversion_settings = inversions[0].settings
    schedule, method = model.schedule(inversion_settings.num_inference_steps), METHODS[inversion_settings.method]
    conditions = _conditions(model, images, inversions, requests, settings)
    mask = _mask(model, schedule, method, tensors, conditions, requests, settings)
    z_0 = edit_latents(
        model,
        schedule,
        method,
        tensors,
        replace(conditions, mask=mask),
        along_source=settings.interpolation == "source-to-target",
        guides=inversion_settings.guides,
        skip=settings.skip,
    )
    edited = model.decode_latents(z_0).half().cpu()
    over_pixels = torch.ones_like(edited[:, :1]) if mask is None else _upsampled(mask.cpu(), edited.shape[-2:]).half()
    return [
        replace(
            _synthesis(e, r, m, truncated=_truncated(model, of, request)),
            keeps_shape=settings.controls(request).hold_structure > 0,
        )
        if bool(z.isfinite().all() and e.isfinite().all())
        else RowError("non_finite", f"edit {request.prompt!r}: expected finite values; got NaN or infinity")
        for e, r, m, z, of, request in zip(edited, reconstruction, over_pixels, z_0, inversions, requests, strict=True)
    ]


def _truncated(model: Backbone, inversion: Inversion, request: EditRequest) -> bool:
    texts = [text for text, _ in request.targets]
    return not all(map(model.holds, (*texts, inversion.source_prompt, request.negative_prompt)))


def _conditions(
    model: Backbone,
    images: Images,
    inversions: list[Inversion],
    requests: list[EditRequest],
    settings: EditSettings,
) -> Conditions:
    device = model.device
    target, total = _weighted(model, [request.targets for request in requests])
    fitted = [inversion.settings.guidance_scale for inversion in inversions]
    scales = [f if r.guidance_scale is None else r.guidance_scale for f, r in zip(fitted, requests, strict=True)]
    controls = [settings.controls(request) for request in requests]
    sources = [inversion.source_prompt for inversion in inversions]
    # Of several changes at once no word has a place; nothing asks for theirs.
    worded_as = [source if r.deltas else r.prompt for source, r in zip(sources, requests, strict=True)]
    # What a source prompt does not say is no word that could be held.
    worded = [c.hold_cross_attention if source else 0.0 for c, source in zip(controls, sources, strict=True)]
    variation = [c.variation for c in controls]
    return Conditions(
        images=images,
        source=model.encode_prompts(sources),
        has_source=torch.tensor([bool(source) for source in sources], device=device),
        target=target,
        total=total,
        one_target=torch.tensor([not request.deltas for request in requests], device=device),
        negative=model.encode_prompts([request.negative_prompt for request in requests]),
        null=model.encode_prompts([""] * len(requests)),
        strength=torch.tensor([request.strength for request in requests], device=device),
        guidance_scale=torch.tensor(scales, device=device),
        fitted_scale=torch.tensor(fitted, device=device),
        hold_structure=torch.tensor([c.hold_structure for c in controls], device=device),
        hold_self_attention=torch.tensor([c.hold_self_attention for c in controls], device=device),
        hold_cross_attention=torch.tensor(worded, device=device),
        wording=model.wording(sources, worded_as, [c.word_weights for c in controls]),
        variation=torch.tensor(variation, device=device) if any(variation) else None,
        seeds=tuple(request.seed for request in requests),
    )


def _weighted(model: Backbone, rows: list[Deltas]) -> tuple[Tensor, Tensor]:
    """For each row the sum of its prompts' embeddings, each times its strength, and the sum of the strengths."""
    texts = list(dict.fromkeys(text for row in rows for text, _ in row))
    embedded = dict(zip(texts, model.encode_prompts(texts), strict=True))
    sums = [torch.stack([strength * embedded[text] for text, strength in row]).sum(dim=0) for row in rows]
    totals = [sum(strength for _, strength in row) for row in rows]
    return torch.stack(sums), torch.tensor(totals, device=model.device)


def _mask(
    model: Backbone,
    schedule: NoiseSchedule,
    method: Method,
    tensors: dict[str, Tensor],
    conditions: Conditions,
    requests: list[EditRequest],
    settings: EditSettings,
) -> Tensor | None:
    if settings.mask == "none":
        if all(request.mask is None for request in requests):
            return None
        mask = torch.ones_like(tensors["reconstruction"][:, :1], dtype=torch.float32)
    else:
        mask = grow(automatic_mask(model, schedule, method, tensors, conditions, settings.mask), settings.mask_grow)
    for i, request in enumerate(requests):
        if request.mask is not None:
            pixels = torch.from_numpy(request.mask.astype(np.float32) / 255)[None, None]
            given = torch.nn.functional.adaptive_avg_pool2d(pixels, (mask.shape[-2], mask.shape[-1]))[0].to(mask)
            mask[i] = torch.minimum(given, mask[i]) if settings.mask_given == "intersect" else given
    return feather(mask, settings.mask_feather)


def _upsampled(mask: Tensor, size: torch.Size) -> Tensor:
    return torch.nn.functional.interpolate(mask, size=size, mode="bilinear", align_corners=False)


def _synthesis(edited: Tensor, reconstruction: Tensor, mask: Tensor, *, truncated: bool) -> Synthesis:
    return Synthesis(
        edited.permute(1, 2, 0).numpy(), reconstruction.permute(1, 2, 0).numpy(), mask[0].numpy(), truncated
    )
