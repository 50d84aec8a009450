"""Stage 2: the denoiser and the text encoder, trained together on the autoencoder's latents."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from pipeline.demo.data import TrainingSet, batches
from pipeline.demo.scene import Scene, caption, unseen_scenes
from pipeline.demo.train_autoencoder import encode_all
from pipeline.demo.training import Run, StageSettings, autocast, save_curve, save_grid, start, train
from pipeline.models.catalogue import assemble, new_scheduler

_CAPTION_DROPOUT: Final = 0.10
_WORD_DROPOUT: Final = 0.15
_TEXT_RATE: Final = 0.5  # the text encoder's learning rate, as a share of the denoiser's
_SNR_CAP: Final = 5.0


def train_denoiser(
    models: tuple[Any, Any, Any, Any],
    data: TrainingSet,
    settings: StageSettings,
    folder: Path,
    device: torch.device,
    seed: int,
) -> None:
    """Fit (vae, unet, text_encoder, tokenizer) on `data` in place; the autoencoder stays as it is.

    Noise prediction with min-SNR weighting (Hang et al., 2023, eq. 6, γ = 5), which spends less on the
    nearly clean steps that a small network can hardly improve.
    """
    vae, unet, text_encoder, tokenizer = models
    vae.to(device).requires_grad_(False)
    unet.to(device, memory_format=torch.channels_last)
    text_encoder.to(device)
    latents = encode_all(vae, data.images, device, folder)
    run = start(
        folder / "denoiser.pt",
        [unet, text_encoder],
        [{"params": list(unet.parameters())}, {"params": list(text_encoder.parameters()), "scale": _TEXT_RATE}],
        settings,
    )
    generator = torch.Generator().manual_seed(seed + run.step)
    words = random.Random(seed + run.step)
    order = batches(len(data.scenes), settings.batch_size, generator)
    alphas_cumprod = new_scheduler().alphas_cumprod
    assert isinstance(alphas_cumprod, Tensor)

    def loss_of(_step: int) -> Tensor:
        index = next(order)
        mirrored = torch.randint(0, 2, (len(index),), generator=generator)
        z_0 = latents[index, mirrored].float()
        timestep = _stratified_timesteps(len(index), generator)
        alpha_bar = alphas_cumprod[timestep].view(-1, 1, 1, 1)
        eps = torch.randn(z_0.shape, generator=generator)
        z_t = alpha_bar.sqrt() * z_0 + (1 - alpha_bar).sqrt() * eps
        prompts = [_training_caption(data.scenes[i], words) for i in index.tolist()]
        with autocast(device):
            embedding = text_encoder(tokenize(tokenizer, prompts).to(device))[0]
            predicted = unet(z_t.to(device), timestep.to(device), embedding).sample
        error = (predicted.float() - eps.to(device)).square().mean(dim=(1, 2, 3))
        snr = alpha_bar / (1 - alpha_bar)
        weight = (snr.clamp(max=_SNR_CAP) / snr).flatten().to(device)
        loss: Tensor = (weight * error).mean()
        return loss

    def report(run: Run) -> None:
        recent = run.losses[-settings.report_every :]
        print(f"denoiser step {run.step}: loss {sum(recent) / len(recent):.4f}", flush=True)
        save_curve(folder / "denoiser-loss.png", run.losses, "denoiser: min-SNR weighted noise error")
        save_grid(folder / "denoiser-samples.png", sample_grid(models), columns=5, scale=3)

    train(run, settings, loss_of, report)
    run.averaged.swap()


def tokenize(tokenizer: Any, prompts: list[str]) -> Tensor:
    """Prompts → token ids (n, window), padded to the whole window as Stable Diffusion does."""
    ids = tokenizer(
        prompts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids
    assert isinstance(ids, Tensor)
    return ids


@torch.no_grad()
def sample_grid(models: tuple[Any, Any, Any, Any], guidance_scale: float = 3.0, steps: int = 25) -> Tensor:
    """Sample the captions whose object, colour and place were never trained on together."""
    prompts = [caption(scene) for scene in unseen_scenes()]
    pipeline = assemble(*models)
    images = pipeline(
        prompts,
        guidance_scale=guidance_scale,
        num_inference_steps=steps,
        generator=[torch.Generator().manual_seed(i) for i in range(len(prompts))],
        output_type="pt",
    ).images
    assert isinstance(images, Tensor)
    return images


def _stratified_timesteps(n: int, generator: torch.Generator) -> Tensor:
    """One timestep from each of n equal strata: the loss varies less from batch to batch."""
    u = (torch.arange(n) + torch.rand(n, generator=generator)) / n
    return (u * 1000).long().clamp(max=999)[torch.randperm(n, generator=generator)]


def _training_caption(scene: Scene, words: random.Random) -> str:
    if words.random() < _CAPTION_DROPOUT:
        return ""
    return caption(scene, material=words.random() >= _WORD_DROPOUT, pattern=words.random() >= _WORD_DROPOUT)
