"""The training recipe from end to end: renderings, autoencoder, denoiser, and a folder that diffusers loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from pipeline.demo.card import SAMPLES, commit, write_card
from pipeline.demo.data import TrainingSet, rendered
from pipeline.demo.scene import HELD_OUT_SEEDS, caption, caption_words, unseen_scenes
from pipeline.demo.train_autoencoder import HELD_OUT_IMAGES, median_psnr, round_trip, train_autoencoder
from pipeline.demo.train_denoiser import sample_grid, train_denoiser
from pipeline.demo.training import StageSettings, save_grid
from pipeline.errors import JobError
from pipeline.models.catalogue import (
    CatalogueArchitecture,
    load_parts,
    new_autoencoder,
    new_text_encoder,
    new_tokenizer,
    new_unet,
    save_pipeline,
)

# Enough that a batch of either stage fits into what is left beside the held-out images.
MIN_SCENES: Final = 192
_SHEET_SIDE: Final = 192  # pixels of one picture on the sample sheet

_Models = tuple[Any, Any, Any, Any]  # vae, unet, text_encoder, tokenizer


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides what a training makes; a stage of 0 steps leaves its networks as they are.

    Raises:
        JobError: there are too few scenes to train on.
    """

    architecture: CatalogueArchitecture = CatalogueArchitecture()
    scenes: int = 24_576
    autoencoder: StageSettings = StageSettings(steps=2_600, batch_size=16, learning_rate=1.2e-3, ema_decay=0.998)
    denoiser: StageSettings = StageSettings(steps=15_500, batch_size=32, learning_rate=1e-3)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.scenes < MIN_SCENES:
            raise JobError(f"scenes: expected at least {MIN_SCENES}; got {self.scenes}")


def train_bundled_model(recipe: Recipe, output: Path, device: str = "auto", start_from: Path | None = None) -> Path:
    """Train as `recipe` says and return the pipeline folder, `output/model`.

    Renderings, checkpoints, loss curves and sample sheets lie beside it; the same call again goes on from
    the last checkpoint. Where there is no checkpoint, `start_from` (a pipeline folder) gives the weights.
    `device` is a torch device, or `auto`: a GPU where there is one.

    Raises:
        JobError: `start_from` is not a pipeline folder, or there is no such device.
    """
    chosen = _device(device)
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    models = _models(recipe.architecture, start_from)
    data = rendered(output / "data", recipe.scenes, recipe.architecture.image_size, str(chosen))
    vae, unet, text_encoder, tokenizer = models
    if recipe.autoencoder.steps:
        train_autoencoder(vae, data, recipe.autoencoder, output, chosen, recipe.seed)
    if recipe.denoiser.steps:
        train_denoiser(models, data, recipe.denoiser, output, chosen, recipe.seed)
    folder = output / "model"
    save_pipeline(folder, vae, unet, text_encoder, tokenizer)
    _describe(folder, recipe, data, chosen, start_from)
    return folder


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise JobError(f"device {name}: expected auto, cpu or a GPU of this machine; got {reason}") from error


def _models(sizes: CatalogueArchitecture, start_from: Path | None) -> _Models:
    """New networks, or those of a saved pipeline at the recipe's image size."""
    if start_from is None:
        tokenizer = new_tokenizer(caption_words())
        return new_autoencoder(sizes), new_unet(sizes), new_text_encoder(sizes, tokenizer), tokenizer
    try:
        vae, unet, text_encoder, tokenizer = load_parts(start_from)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise JobError(f"{start_from}: expected a pipeline folder to start from; got {reason}") from error
    stride = 2 ** (len(vae.config.block_out_channels) - 1)
    vae.register_to_config(sample_size=sizes.image_size)
    unet.register_to_config(sample_size=sizes.image_size // stride)
    return vae, unet, text_encoder, tokenizer


def _describe(folder: Path, recipe: Recipe, data: TrainingSet, device: torch.device, start_from: Path | None) -> None:
    """Measure what was saved, in its saved precision, and write the model card and the sample sheet."""
    models: _Models = load_parts(folder)
    vae, unet, text_encoder, _ = models
    for network in (vae, unet, text_encoder):
        network.to(device).eval()
    size = recipe.architecture.image_size
    images, decoded = round_trip(vae, data.images[-HELD_OUT_IMAGES:], device)
    latent = f"{unet.config.sample_size}×{unet.config.sample_size}×{unet.config.in_channels}"
    rows = {
        "pictures": f"{size} px; latents {latent}",
        "data": f"{len(data.scenes):,} renderings, of seeds from {HELD_OUT_SEEDS:,}",
        "autoencoder": _stage(recipe.autoencoder),
        "denoiser and text encoder": _stage(recipe.denoiser),
        "started from": "new networks" if start_from is None else f"the weights in `{start_from.name}`",
        "seed": str(recipe.seed),
        "commit": commit(),
        "made with": f"torch {torch.__version__} on {device.type}",
    }
    figures = {
        f"autoencoder's round trip, median PSNR of {HELD_OUT_IMAGES} renderings not trained on": (
            f"{median_psnr(images, decoded):.2f} dB"
        ),
        "autoencoder": _parameters(vae),
        "denoiser": _parameters(unet),
        "text encoder": _parameters(text_encoder),
    }
    save_grid(folder / SAMPLES, sample_grid(models), columns=5, scale=max(1, _SHEET_SIDE // size))
    write_card(folder / "README.md", rows, figures, [caption(scene) for scene in unseen_scenes()])


def _stage(settings: StageSettings) -> str:
    if settings.steps == 0:
        return "as it was"
    return (
        f"{settings.steps:,} steps of {settings.batch_size}, AdamW at {settings.learning_rate:g}, "
        f"weights averaged at {settings.ema_decay:g}"
    )


def _parameters(network: torch.nn.Module) -> str:
    return f"{sum(p.numel() for p in network.parameters()):,} parameters"
