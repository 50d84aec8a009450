"""The engine's face: a model and a method, `invert` and `edit`, for notebooks, services and the job alike."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import EditSettings, InversionSettings
from pipeline.diffusion.composite import composite_pixels, to_bytes
from pipeline.errors import JobError, RowError
from pipeline.io.images import resize
from pipeline.io.pillow import from_pillow, to_pillow
from pipeline.methods import METHODS
from pipeline.methods.base import Method
from pipeline.methods.editing import Conditions, automatic_mask, edit_latents
from pipeline.models.stable_diffusion import StableDiffusion

Pixels = NDArray[np.uint8]
Values = NDArray[np.float32]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Inversion:
    """One image, inverted: everything that edits need.

    Attributes:
        tensors: what the method stores, on the CPU; "trajectory" is (N + 1, c, h, w), index 0 clean.
        size: (width, height) the model worked at.
        vae_psnr: the autoencoder's round trip against the resized image, in dB: the ceiling.
        recon_psnr: the method's own reconstruction against the same, in dB.
        iterations: gradient steps taken.
        seconds: this image's share of its batch's time.
        original: the image at its own size; None when restored from an artifact without it.
    """

    tensors: dict[str, Tensor]
    source_prompt: str
    settings: InversionSettings
    size: tuple[int, int]
    vae_psnr: float
    recon_psnr: float
    iterations: int
    seconds: float
    original: Pixels | None = None


@dataclass(frozen=True, slots=True)
class EditRequest:
    """One edit of the inversion at index `inversion`; `mask` is at the working size, 255 may change."""

    inversion: int
    prompt: str
    strength: float = 1.0
    negative_prompt: str = ""
    guidance_scale: float | None = None
    mask: Pixels | None = None


@dataclass(frozen=True, slots=True)
class Synthesis:
    """One edit at the working size: pictures (h, w, 3) and mask (h, w), float32 in [0, 1]."""

    edited: Values
    reconstruction: Values
    mask: Values


class Editor:
    """Text-guided editing of real photographs with one model.

    >>> editor = Editor.from_pretrained()
    >>> inversions = editor.invert(images, source_prompts=["a photo of a red mug on a wooden table"])
    >>> editor.edit(inversions, prompt="a photo of a blue mug on a wooden table", strength=[0, 0.5, 1])
    """

    def __init__(self, model: StableDiffusion, side: int = 0) -> None:
        self._model = model
        self._side = side or model.side

    @classmethod
    def from_pretrained(
        cls, model: str | None = None, *, device: str | None = None, dtype: str | None = None, side: int = 0
    ) -> Editor:
        """Load a model: a diffusers folder, an `s3://` folder or a hub id; None is the bundled one.

        `side` sets the working area, `side`² pixels; 0 takes what the model was trained at.

        Raises:
            JobError: the model cannot be loaded.
        """
        return cls(StableDiffusion.from_pretrained(model, device, dtype), side)

    @property
    def fingerprint(self) -> str:
        """sha256 of the model's files."""
        return self._model.fingerprint

    @property
    def model_name(self) -> str:
        return self._model.name

    def working_size(self, width: int, height: int) -> tuple[int, int]:
        """The (width, height) at which the model works on an image of this size."""
        return self._model.working_size(width, height, self._side)

    def invert(
        self,
        images: Sequence[Any],
        *,
        source_prompts: Sequence[str] | str | None = None,
        method: str | None = None,
        num_inference_steps: int | None = None,
        settings: InversionSettings | None = None,
    ) -> list[Inversion]:
        """Invert images (Pillow images or uint8 arrays (h, w, 3)); all of one working size go together.

        `method` and `num_inference_steps` are short for those fields of `settings`.

        Raises:
            RowError: an image's latents are not finite.
            JobError: unknown method, or more steps than the model has.
        """
        given = {"method": method, "num_inference_steps": num_inference_steps}
        chosen = (settings or InversionSettings()).model_copy(update={k: v for k, v in given.items() if v is not None})
        return [_or_raise(result) for result in self.invert_rows(images, source_prompts, chosen)]

    def edit(
        self,
        inversions: Sequence[Inversion],
        *,
        prompt: str,
        strength: float | Sequence[float] = 1.0,
        negative_prompt: str = "",
        guidance_scale: float | None = None,
        masks: Sequence[Pixels | None] | None = None,
        settings: EditSettings | None = None,
    ) -> list[list[Any]]:
        """Edit each inversion at each strength → Pillow images, one list per inversion, at the originals' sizes.

        Raises:
            RowError: an edit's latents are not finite.
        """
        strengths = [strength] if isinstance(strength, (int, float)) else list(strength)
        settings = settings or EditSettings()
        requests = [
            EditRequest(i, prompt, s, negative_prompt, guidance_scale, _fitted_mask(masks, i, inversion.size))
            for i, inversion in enumerate(inversions)
            for s in strengths
        ]
        pictures = [
            to_pillow(published(_or_raise(result), inversions[request.inversion].original, settings))
            for request, result in zip(requests, self.edit_rows(inversions, requests, settings), strict=True)
        ]
        per_image = len(strengths)
        return [pictures[i * per_image : (i + 1) * per_image] for i in range(len(inversions))]

    def invert_rows(
        self, images: Sequence[Any], source_prompts: Sequence[str] | str | None, settings: InversionSettings
    ) -> list[Inversion | RowError]:
        """As `invert`, with a row's failure in its place: one bad row costs the others nothing."""
        originals = [from_pillow(image) for image in images]
        prompts = (
            [source_prompts or ""] * len(images)
            if not isinstance(source_prompts, Sequence) or isinstance(source_prompts, str)
            else list(source_prompts)
        )
        sizes = [self.working_size(o.shape[1], o.shape[0]) for o in originals]

        def run(rows: list[int]) -> list[Inversion | RowError]:
            size = sizes[rows[0]]
            pixels = _as_tensor([resize(originals[i], size) for i in rows])
            found = self._invert_batch(pixels, [prompts[i] for i in rows], size, settings)
            return [
                replace(f, original=originals[i]) if isinstance(f, Inversion) else f
                for i, f in zip(rows, found, strict=True)
            ]

        return _grouped(sizes, run)

    def edit_rows(
        self, inversions: Sequence[Inversion], requests: Sequence[EditRequest], settings: EditSettings
    ) -> list[Synthesis | RowError]:
        """Synthesise edits at the working size; compatible rows share the network's calls."""
        kinds = [(inversions[r.inversion].size, inversions[r.inversion].settings, r.strength == 0) for r in requests]

        def run(rows: list[int]) -> list[Synthesis | RowError]:
            group = [requests[i] for i in rows]
            return self._edit_batch([inversions[r.inversion] for r in group], group, settings)

        return _grouped(kinds, run)

    def _invert_batch(
        self, pixels: Tensor, prompts: list[str], size: tuple[int, int], settings: InversionSettings
    ) -> list[Inversion | RowError]:
        began = time.perf_counter()
        model = self._model
        z_0 = model.encode_images(pixels)
        found = _method(settings).invert(
            model,
            model.schedule(settings.num_inference_steps),
            z_0,
            model.encode_prompts(prompts),
            model.encode_prompts([""]),
            settings,
        )
        ceiling = _psnr(model.decode_latents(z_0).cpu(), pixels)
        reached = _psnr(model.decode_latents(found.z_0).cpu(), pixels)
        seconds = (time.perf_counter() - began) / len(prompts)
        stored = {name: tensor.half().cpu() for name, tensor in found.tensors.items()}
        results: list[Inversion | RowError] = []
        for i, prompt in enumerate(prompts):
            tensors = {name: tensor[i].contiguous() for name, tensor in stored.items()}
            bad = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
            if bad:
                results.append(RowError("non_finite", f"inversion: expected finite tensors; {', '.join(bad)} is not"))
                continue
            iterations = int(found.iterations[i])
            results.append(
                Inversion(tensors, prompt, settings, size, float(ceiling[i]), float(reached[i]), iterations, seconds)
            )
        return results

    def _edit_batch(
        self, inversions: list[Inversion], requests: list[EditRequest], settings: EditSettings
    ) -> list[Synthesis | RowError]:
        model, device = self._model, self._model.device
        tensors = {
            name: torch.stack([inversion.tensors[name] for inversion in inversions]).to(device)
            for name in inversions[0].tensors
        }
        reconstruction = model.decode_latents(tensors["trajectory"][:, 0].float()).cpu()
        if requests[0].strength == 0:
            nothing = torch.zeros_like(reconstruction[:, :1])
            return [_synthesis(r, r, m) for r, m in zip(reconstruction, nothing, strict=True)]
        inversion_settings = inversions[0].settings
        schedule, method = model.schedule(inversion_settings.num_inference_steps), _method(inversion_settings)
        conditions = self._conditions(inversions, requests)
        mask = self._mask(schedule, method, tensors, conditions, requests, settings)
        z_0 = edit_latents(
            model,
            schedule,
            method,
            tensors,
            replace(conditions, mask=mask),
            along_source=settings.interpolation == "source-to-target",
        )
        edited = model.decode_latents(z_0).cpu()
        over_pixels = torch.ones_like(edited[:, :1]) if mask is None else _upsampled(mask.cpu(), edited.shape[-2:])
        return [
            _synthesis(e, r, m)
            if bool(z.isfinite().all())
            else RowError("non_finite", f"edit {request.prompt!r}: expected finite latents; got NaN or infinity")
            for e, r, m, z, request in zip(edited, reconstruction, over_pixels, z_0, requests, strict=True)
        ]

    def _conditions(self, inversions: list[Inversion], requests: list[EditRequest]) -> Conditions:
        model, device = self._model, self._model.device
        scales = [
            inversion.settings.guidance_scale if request.guidance_scale is None else request.guidance_scale
            for inversion, request in zip(inversions, requests, strict=True)
        ]
        return Conditions(
            source=model.encode_prompts([inversion.source_prompt for inversion in inversions]),
            has_source=torch.tensor([bool(inversion.source_prompt) for inversion in inversions], device=device),
            target=model.encode_prompts([request.prompt for request in requests]),
            unconditional=model.encode_prompts([request.negative_prompt for request in requests]),
            strength=torch.tensor([request.strength for request in requests], device=device),
            guidance_scale=torch.tensor(scales, device=device),
        )

    def _mask(
        self,
        schedule: Any,
        method: Method,
        tensors: dict[str, Tensor],
        conditions: Conditions,
        requests: list[EditRequest],
        settings: EditSettings,
    ) -> Tensor | None:
        if settings.mask == "none":
            return None
        mask = automatic_mask(self._model, schedule, method, tensors, conditions)
        for i, request in enumerate(requests):
            if request.mask is not None:
                given = torch.from_numpy(request.mask.astype(np.float32) / 255)[None, None]
                mask[i] = torch.nn.functional.adaptive_avg_pool2d(given, (mask.shape[-2], mask.shape[-1]))[0].to(mask)
        return mask


def published(synthesis: Synthesis, original: Pixels | None, settings: EditSettings) -> Pixels:
    """The output's pixels: composited into the original, or the bare edit at the working size."""
    edited, reconstruction, mask = map(torch.from_numpy, (synthesis.edited, synthesis.reconstruction, synthesis.mask))
    if settings.composite == "none":
        return to_bytes(edited).numpy()
    if original is None:
        raise JobError("composite: expected the inversion's original image; got none (composite='none' needs none)")
    return composite_pixels(torch.from_numpy(original), edited, reconstruction, mask).numpy()


def _method(settings: InversionSettings) -> Method:
    if settings.method not in METHODS:
        raise JobError(f"method: expected one of {', '.join(METHODS)}; got {settings.method!r}")
    return METHODS[settings.method]


def _grouped(kinds: Sequence[Any], run: Callable[[list[int]], list[_T]]) -> list[_T]:
    """Run rows of one kind together and return the results in the rows' order."""
    groups: dict[Any, list[int]] = defaultdict(list)
    for i, kind in enumerate(kinds):
        groups[kind].append(i)
    results: dict[int, _T] = {}
    for rows in groups.values():
        results.update(zip(rows, run(rows), strict=True))
    return [results[i] for i in range(len(kinds))]


def _or_raise(result: _T | RowError) -> _T:
    if isinstance(result, RowError):
        raise result
    return result


def _fitted_mask(masks: Sequence[Pixels | None] | None, index: int, size: tuple[int, int]) -> Pixels | None:
    mask = masks[index] if masks is not None else None
    return None if mask is None else resize(mask, size)


def _as_tensor(images: Sequence[Pixels]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def _psnr(a: Tensor, b: Tensor) -> Tensor:
    return -10 * (a - b).square().mean(dim=(1, 2, 3)).clamp(min=1e-10).log10()


def _upsampled(mask: Tensor, size: torch.Size) -> Tensor:
    return torch.nn.functional.interpolate(mask, size=size, mode="bilinear", align_corners=False)


def _synthesis(edited: Tensor, reconstruction: Tensor, mask: Tensor) -> Synthesis:
    return Synthesis(edited.permute(1, 2, 0).numpy(), reconstruction.permute(1, 2, 0).numpy(), mask[0].numpy())
