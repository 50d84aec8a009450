"""Images to inversions: a batch of one working size through the model, what artifacts keep, and the way back."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.errors import RowError
from pipeline.methods import METHODS
from pipeline.methods.base import Inverted, Task
from pipeline.methods.refinement import inverted
from pipeline.models.backbone import Backbone
from pipeline.pixels import Pixels
from pipeline.settings import InversionSettings


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
        if self.settings.artifact == "full" or not self.is_whole:
            return self.tensors
        left_out = ("reconstruction", "residuals", *(["trajectory"] if self.settings.retraces else []))
        tensors = {name: tensor for name, tensor in self.tensors.items() if name not in left_out}
        return tensors | {"z_0": self.tensors["trajectory"][0].contiguous()}

    @property
    def is_whole(self) -> bool:
        """Whether edits can start from it as it is."""
        return "reconstruction" in self.tensors


def stored_tensors(settings: InversionSettings) -> frozenset[str]:
    """Names of the tensors that an artifact of these settings holds."""
    return METHODS[settings.method].stored(settings)


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
    # In half precision, as artifacts hold it, so that what is computed again from them is what it was; and one at a
    # time, since that rounding makes a thousand times more of what a batch rounds differently.
    z_0 = torch.cat([model.encode_images(part) for part in torch.split(pixels, 1)]).half().float()
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
    kept = stacked(model, inversions)
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


def stacked(model: Backbone, inversions: list[Inversion]) -> dict[str, Tensor]:
    """The tensors of inversions of one size and settings, each (n, …), on the model's device."""
    return {
        name: torch.stack([inversion.tensors[name] for inversion in inversions]).to(model.device)
        for name in inversions[0].tensors
    }


def _psnr(a: Tensor, b: Tensor) -> Tensor:
    return -10 * (a - b).square().mean(dim=(1, 2, 3)).clamp(min=1e-10).log10()
