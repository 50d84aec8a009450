"""A small, randomly initialised Stable Diffusion folder of diffusers' real classes, for tests of the engine."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.demo.scene import caption_words
from pipeline.models.catalogue import (
    CatalogueArchitecture,
    new_autoencoder,
    new_text_encoder,
    new_tokenizer,
    new_unet,
    save_pipeline,
)

SIZES = CatalogueArchitecture(
    image_size=32, latent_channels=4, vae_channels=(16, 16), unet_channels=(32, 32), text_width=32, text_layers=1
)


def save_small_model(folder: Path, seed: int = 0) -> Path:
    """Write the folder and return it; another seed gives other weights."""
    torch.manual_seed(seed)
    tokenizer = new_tokenizer(caption_words())
    save_pipeline(folder, new_autoencoder(SIZES), new_unet(SIZES), new_text_encoder(SIZES, tokenizer), tokenizer)
    return folder
