"""Stable Diffusion with random weights: for measurements that do not depend on what a network has learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from pipeline.models.catalogue import assemble, new_tokenizer


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a Stable Diffusion 1.x; the defaults are those of 1.5."""

    image_size: int = 512
    vae_channels: tuple[int, ...] = (128, 256, 512, 512)
    unet_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    vocabulary: int = 49_408
    tokens: int = 77


RANDOM_MODELS: Final[Mapping[str, Sizes]] = {
    "random-sd15": Sizes(),
    "random-tiny": Sizes(128, (32, 32, 32, 32), (32, 32, 64, 64), 32, 1, 2, 1024, 77),
}


def random_unet(sizes: Sizes) -> UNet2DConditionModel:
    """A denoiser of this size; what is not said here is diffusers' default, and so is 1.5's."""
    return UNet2DConditionModel(
        sample_size=sizes.image_size // 2 ** (len(sizes.vae_channels) - 1),
        block_out_channels=sizes.unet_channels,
        cross_attention_dim=sizes.text_width,
        attention_head_dim=8,  # by diffusers' old name: the number of heads
    )


def random_autoencoder(sizes: Sizes) -> AutoencoderKL:
    """An autoencoder of this size."""
    levels = len(sizes.vae_channels)
    return AutoencoderKL(
        sample_size=sizes.image_size,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=sizes.vae_channels,
        layers_per_block=2,
    )


def random_text_encoder(sizes: Sizes, end_token: int) -> CLIPTextModel:
    """A text encoder of this size, that knows its tokenizer's end token."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=sizes.vocabulary,
            hidden_size=sizes.text_width,
            intermediate_size=4 * sizes.text_width,
            num_hidden_layers=sizes.text_layers,
            num_attention_heads=sizes.text_heads,
            max_position_embeddings=sizes.tokens,
            eos_token_id=end_token,
        )
    )


def random_pipeline(sizes: Sizes, words: Sequence[str], device: torch.device, seed: int = 0) -> StableDiffusionPipeline:
    """A whole model of this size on a device, where its weights are drawn; its tokenizer knows `words`."""
    tokenizer = new_tokenizer(words)
    tokenizer.model_max_length = sizes.tokens
    assert tokenizer.eos_token_id is not None
    torch.manual_seed(seed)
    with device:
        parts = random_autoencoder(sizes), random_unet(sizes), random_text_encoder(sizes, tokenizer.eos_token_id)
    return assemble(*parts, tokenizer)
