"""Stage 1: the autoencoder, which sets the ceiling for everything after it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.demo.data import TrainingSet, as_pixels, batches
from pipeline.demo.training import Run, StageSettings, autocast, save_curve, save_grid, start, train

# Weight of the latents' information against the logarithm of the squared error: small enough that
# encoding noise costs the reconstruction about a hundredth, large enough to empty useless channels.
_KL_WEIGHT: Final = 0.02
_ERROR_FLOOR: Final = 2e-4
# The last images of a training set, which the autoencoder is measured on and not trained on.
HELD_OUT_IMAGES: Final = 64


def train_autoencoder(
    vae: Any, data: TrainingSet, settings: StageSettings, folder: Path, device: torch.device, seed: int
) -> None:
    """Fit the autoencoder on `data` in place, and leave it with averaged weights and its scaling factor.

    The loss is the mean over images of log(MSE): it maximises the mean PSNR, and easy photographs
    (a white studio) count as much as busy ones (a brick wall).
    """
    vae.to(device, memory_format=torch.channels_last)
    run = start(folder / "autoencoder.pt", [vae], [{"params": list(vae.parameters())}], settings)
    generator = torch.Generator().manual_seed(seed + run.step)
    order = batches(len(data.scenes), settings.batch_size, generator)
    held_out, held_in = data.images[-HELD_OUT_IMAGES:], data.images[:-HELD_OUT_IMAGES]

    def loss_of(step: int) -> Tensor:
        index = next(order)
        images = as_pixels(held_in[index.clamp(max=len(held_in) - 1)]).to(device)
        if step % 2:
            images = images.flip(-1)
        with autocast(device):
            posterior = vae.encode(images.contiguous(memory_format=torch.channels_last)).latent_dist
            decoded = vae.decode(posterior.sample()).sample
        error = (decoded.float() - images).square().mean(dim=(1, 2, 3))
        information = 0.5 * (posterior.mean.float().square() + posterior.var.float() - 1 - posterior.logvar.float())
        loss: Tensor = (error + _ERROR_FLOOR).log().mean() + _KL_WEIGHT * information.mean()
        return loss

    def report(run: Run) -> None:
        shown, decoded = round_trip(vae, held_out, device)
        psnr = median_psnr(shown, decoded)
        print(f"autoencoder step {run.step}: loss {run.losses[-1]:.3f}, median PSNR {psnr:.2f} dB", flush=True)
        pairs = torch.stack((shown[:16], decoded[:16]), dim=1).flatten(0, 1)
        save_grid(folder / "autoencoder-samples.png", pairs, columns=8)
        save_curve(folder / "autoencoder-loss.png", run.losses, "autoencoder: mean log MSE + information")

    train(run, settings, loss_of, report)
    run.averaged.swap()
    vae.register_to_config(scaling_factor=round(1 / float(_encode(vae, data.images[:512], device).std()), 5))


@torch.no_grad()
def round_trip(vae: Any, images: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """uint8 images (n, 3, h, w), and what the autoencoder returns for them: both float32 in [0, 1]."""
    shown = as_pixels(images).to(device)
    with autocast(device):
        decoded = vae.decode(vae.encode(shown).latent_dist.mode()).sample.float()
    return shown / 2 + 0.5, (decoded / 2 + 0.5).clamp(0, 1)


def median_psnr(images: Tensor, others: Tensor) -> float:
    """Median over images (n, 3, h, w) in [0, 1] of the PSNR to their counterparts, in dB."""
    error = (images - others).square().mean(dim=(1, 2, 3))
    return float((-10 * error.log10()).median())


@torch.no_grad()
def _encode(vae: Any, images: Tensor, device: torch.device) -> Tensor:
    parts = []
    for chunk in torch.split(images, 128):
        with autocast(device):
            parts.append(vae.encode(as_pixels(chunk).to(device)).latent_dist.mode().float().cpu())
    return torch.cat(parts)


def encode_all(vae: Any, images: Tensor, device: torch.device, cache: Path) -> Tensor:
    """Scaled latents of uint8 images and of their mirror images, (n, 2, c, h, w) float16: stage 2's data.

    They are kept in the folder `cache` under a name that follows from the weights and the images, so that a
    run that goes on does not encode again.
    """
    path = cache / f"latents-{_digest(vae, images)}.safetensors"
    if not path.exists():
        sides = [_encode(vae, side, device) * vae.config.scaling_factor for side in (images, images.flip(-1))]
        save_file({"latents": torch.stack(sides, dim=1).half().contiguous()}, path)
    return load_file(path)["latents"]


def _digest(vae: Any, images: Tensor) -> str:
    digest = hashlib.sha256(images.numpy().tobytes())
    for _, weights in sorted(vae.state_dict().items()):
        digest.update(weights.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
