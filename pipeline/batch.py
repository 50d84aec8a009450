"""One batch through the model: images to inversions, inversions and requests to edits, at the working size."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import EditSettings, InversionSettings
from pipeline.diffusion.mask import feather, grow
from pipeline.diffusion.schedule import NoiseSchedule
from pipeline.errors import RowError
from pipeline.methods import METHODS
from pipeline.methods.base import Inverted, Method, Task
from pipeline.methods.editing import Conditions, automatic_mask, edit_latents
from pipeline.methods.refinement import inverted
from pipeline.models.backbone import Backbone
from pipeline.records import Deltas

Pixels = NDArray[np.uint8]
Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Inversion:
    """One image, inverted: everything that edits need.

    Attributes:
        tensors: on the CPU: what the method stores ("trajectory" is (N + 1, c, h, w), index 0 clean), and
            "reconstruction", the latents (c, h, w) where the method lands without any edit.
        size: (width, height) the model worked at.
        vae_psnr: the autoencoder's round trip against the resized image, in dB: the ceiling.
        recon_psnr: the method's own reconstruction against the same, in dB.
        iterations: gradient steps taken.
        seconds: this image's share of its batch's time; of all attempts where there were several.
        converged: whether the fit stopped of itself at every step; None for a method that fits nothing.
        escalated: where the job's own settings fell short, the preset whose settings these are.
        original: the image at its own size; None when restored from an artifact without it.
        alpha: its transparency (h, w), which edits keep.
    """

    tensors: dict[str, Tensor]
    source_prompt: str
    settings: InversionSettings
    size: tuple[int, int]
    vae_psnr: float
    recon_psnr: float
    iterations: int
    seconds: float
    converged: bool | None = None
    escalated: str | None = None
    original: Pixels | None = None
    alpha: Pixels | None = None

    @property
    def kept(self) -> dict[str, Tensor]:
        """The tensors that an artifact keeps; of a compact one `restore_batch` computes the others again."""
        if self.settings.artifact == "full":
            return self.tensors
        left_out = ("reconstruction", "residuals", *(["trajectory"] if self.settings.retraces else []))
        tensors = {name: tensor for name, tensor in self.tensors.items() if name not in left_out}
        return tensors | {"z_0": self.tensors["trajectory"][0].contiguous()}

    @property
    def is_whole(self) -> bool:
        """Whether edits can start from it as it is."""
        return "reconstruction" in self.tensors


@dataclass(frozen=True, slots=True)
class EditRequest:
    """One edit of the inversion at index `inversion`; `mask` is at the working size, 255 may change.

    With `deltas`, prompts and strengths of their own, it makes several changes at once, and `prompt` is only read.
    Of the controls, None takes those of the settings.
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

    @property
    def targets(self) -> Deltas:
        """All prompts that the edit moves to, with their own strengths."""
        return self.deltas or ((self.prompt, 1.0),)


@dataclass(frozen=True, slots=True)
class Synthesis:
    """One edit at the working size: pictures (h, w, 3) and mask (h, w), float32 in [0, 1].

    `truncated` says that the model's text window does not hold the whole prompt.
    """

    edited: Values
    reconstruction: Values
    mask: Values
    truncated: bool = False


def invert_batch(
    model: Backbone,
    pixels: Tensor,
    prompts: list[str],
    size: tuple[int, int],
    settings: InversionSettings,
    slots: int,
) -> list[Inversion | RowError]:
    """Invert images (n, 3, h, w) in [0, 1] of one working size, at most `slots` in the network at a time.

    A row that is not finite fails alone.

    Raises:
        JobError: more steps than the model has.
    """
    began = time.perf_counter()
    z_0 = torch.cat([model.encode_images(part) for part in torch.split(pixels, slots)])
    # As artifacts hold it, so that what is computed again from them is what it was.
    z_0 = z_0.half().float()
    task = _task(model, z_0, prompts, settings, slots)
    found = inverted(METHODS[settings.method], task)
    ceiling, reached = (
        _psnr(torch.cat([model.decode_latents(part).cpu() for part in torch.split(z, slots)]), pixels)
        for z in (z_0, found.z_0)
    )
    seconds = (time.perf_counter() - began) / len(prompts)
    stored = _as_stored(found)
    results: list[Inversion | RowError] = []
    for i, prompt in enumerate(prompts):
        tensors = _row(stored, i)
        measured = {"vae_psnr": ceiling[i], "recon_psnr": reached[i]}
        bad = [name for name, tensor in (tensors | measured).items() if not bool(tensor.isfinite().all())]
        if bad:
            results.append(RowError("non_finite", f"inversion: expected finite tensors; {', '.join(bad)} is not"))
            continue
        results.append(
            Inversion(
                tensors=tensors,
                source_prompt=prompt,
                settings=settings,
                size=size,
                vae_psnr=float(ceiling[i]),
                recon_psnr=float(reached[i]),
                iterations=int(found.iterations[i]),
                seconds=seconds,
                converged=None if found.converged is None else bool(found.converged[i]),
            )
        )
    return results


def restore_batch(model: Backbone, inversions: list[Inversion], slots: int) -> list[Inversion]:
    """Compute again what compact artifacts of one size and settings left out, at most `slots` at a time."""
    kept = _stacked(model, inversions)
    prompts = [inversion.source_prompt for inversion in inversions]
    settings = inversions[0].settings
    task = _task(model, kept.pop("z_0").float(), prompts, settings, slots)
    restored = _as_stored(METHODS[settings.method].restored(task, kept))
    return [replace(inversion, tensors=_row(restored, i)) for i, inversion in enumerate(inversions)]


def _task(model: Backbone, z_0: Tensor, prompts: list[str], settings: InversionSettings, slots: int) -> Task:
    return Task(
        network=model,
        schedule=model.schedule(settings.num_inference_steps),
        z_0=z_0,
        source=model.encode_prompts(prompts),
        null=model.encode_prompts([""] * len(prompts)),
        settings=settings,
        slots=slots,
    )


def _as_stored(found: Inverted) -> dict[str, Tensor]:
    """All that edits start from, in half precision, on the CPU."""
    tensors = found.tensors | {"reconstruction": found.z_0}
    return {name: (t.half() if t.is_floating_point() else t).cpu() for name, t in tensors.items()}


def _row(tensors: dict[str, Tensor], i: int) -> dict[str, Tensor]:
    return {name: tensor[i].contiguous() for name, tensor in tensors.items()}


def _stacked(model: Backbone, inversions: list[Inversion]) -> dict[str, Tensor]:
    return {
        name: torch.stack([inversion.tensors[name] for inversion in inversions]).to(model.device)
        for name in inversions[0].tensors
    }


def edit_batch(
    model: Backbone, inversions: list[Inversion], requests: list[EditRequest], settings: EditSettings
) -> list[Synthesis | RowError]:
    """Make one edit of each inversion; all of one size and settings, and either all or none of strength 0."""
    tensors = _stacked(model, inversions)
    reconstruction = model.decode_latents(tensors["reconstruction"].float()).cpu()
    if requests[0].strength == 0:
        nothing = torch.zeros_like(reconstruction[:, :1])
        return [_synthesis(r, r, m, truncated=False) for r, m in zip(reconstruction, nothing, strict=True)]
    inversion_settings = inversions[0].settings
    schedule, method = model.schedule(inversion_settings.num_inference_steps), METHODS[inversion_settings.method]
    conditions = _conditions(model, inversions, requests, settings)
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
    edited = model.decode_latents(z_0).cpu()
    over_pixels = torch.ones_like(edited[:, :1]) if mask is None else _upsampled(mask.cpu(), edited.shape[-2:])
    return [
        _synthesis(e, r, m, truncated=not all(model.holds(text) for text, _ in request.targets))
        if bool(z.isfinite().all() and e.isfinite().all())
        else RowError("non_finite", f"edit {request.prompt!r}: expected finite values; got NaN or infinity")
        for e, r, m, z, request in zip(edited, reconstruction, over_pixels, z_0, requests, strict=True)
    ]


def _conditions(
    model: Backbone, inversions: list[Inversion], requests: list[EditRequest], settings: EditSettings
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
        return None
    mask = automatic_mask(model, schedule, method, tensors, conditions, settings.mask)
    mask = feather(grow(mask, settings.mask_grow), settings.mask_feather)
    for i, request in enumerate(requests):
        if request.mask is not None:
            pixels = torch.from_numpy(request.mask.astype(np.float32) / 255)[None, None]
            given = torch.nn.functional.adaptive_avg_pool2d(pixels, (mask.shape[-2], mask.shape[-1]))[0].to(mask)
            mask[i] = torch.minimum(given, mask[i]) if settings.mask_given == "intersect" else given
    return mask


def _psnr(a: Tensor, b: Tensor) -> Tensor:
    return -10 * (a - b).square().mean(dim=(1, 2, 3)).clamp(min=1e-10).log10()


def _upsampled(mask: Tensor, size: torch.Size) -> Tensor:
    return torch.nn.functional.interpolate(mask, size=size, mode="bilinear", align_corners=False)


def _synthesis(edited: Tensor, reconstruction: Tensor, mask: Tensor, *, truncated: bool) -> Synthesis:
    return Synthesis(
        edited.permute(1, 2, 0).numpy(), reconstruction.permute(1, 2, 0).numpy(), mask[0].numpy(), truncated
    )
