"""The architecture of the bundled model: a small Stable Diffusion, in diffusers' own classes.

Sizes follow from `image_size`: at 64 px latents are 16×16, at 128 px 32×32. Nothing else in the project
knows these numbers; it reads them from the saved configuration.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

MAX_TOKENS: Final = 32
# Files of a repository stay small enough to review and to clone.
_MAX_SHARD: Final = "14MB"


@dataclass(frozen=True, slots=True)
class CatalogueArchitecture:
    """The sizes that decide cost and capacity of the bundled model."""

    image_size: int = 64
    latent_channels: int = 6
    vae_channels: tuple[int, ...] = (32, 64, 64)
    unet_channels: tuple[int, ...] = (80, 160, 192)
    text_width: int = 128
    text_layers: int = 2


def new_autoencoder(sizes: CatalogueArchitecture) -> AutoencoderKL:
    """An untrained autoencoder that halves the side once per level after the first."""
    levels = len(sizes.vae_channels)
    return AutoencoderKL(
        sample_size=sizes.image_size,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=sizes.vae_channels,
        latent_channels=sizes.latent_channels,
        layers_per_block=1,
        norm_num_groups=16,
        mid_block_add_attention=False,
    )


def new_unet(sizes: CatalogueArchitecture) -> UNet2DConditionModel:
    """An untrained denoiser that attends to the prompt below its finest level.

    Attention over the finest level's cells would take a third of the time, and what a word changes there
    (an edge, a tone) the levels below pass up.
    """
    levels = len(sizes.unet_channels)
    return UNet2DConditionModel(
        sample_size=sizes.image_size // 2 ** (len(sizes.vae_channels) - 1),
        in_channels=sizes.latent_channels,
        out_channels=sizes.latent_channels,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * (levels - 1)),
        up_block_types=(*("CrossAttnUpBlock2D",) * (levels - 1), "UpBlock2D"),
        block_out_channels=sizes.unet_channels,
        layers_per_block=1,
        cross_attention_dim=sizes.text_width,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def new_tokenizer(words: Sequence[str]) -> CLIPTokenizer:
    """A byte-level CLIP tokenizer in which each of `words` (a–z) is one token; other text falls back to bytes."""
    alphabet = _byte_alphabet()
    merges = _learned_merges(words)
    tokens = [*alphabet, *(symbol + "</w>" for symbol in alphabet), *(left + right for left, right in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    padding = "<|endoftext|>"
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS, pad_token=padding)


def _learned_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair encoding learned on `words` until each is one symbol: the commonest pair first, then by name.

    Merges cannot simply be listed word by word: those of one word apply inside another, in order of rank.
    """
    distinct = set(words)
    merges: dict[tuple[str, str], int] = {}
    while True:
        counts = Counter(pair for word in distinct for pair in itertools.pairwise(_symbols(word, merges)))
        if not counts:
            return list(merges)
        commonest = min(counts, key=lambda pair: (-counts[pair], pair))
        merges[commonest] = len(merges)


def _symbols(word: str, merges: Mapping[tuple[str, str], int]) -> list[str]:
    """Split a word as the tokenizer will: merge the neighbours of lowest rank until no merge applies."""
    symbols = [*word[:-1], word[-1] + "</w>"]
    while known := [pair for pair in itertools.pairwise(symbols) if pair in merges]:
        left, right = min(known, key=merges.__getitem__)
        at = next(i for i, pair in enumerate(itertools.pairwise(symbols)) if pair == (left, right))
        symbols[at : at + 2] = [left + right]
    return symbols


def _byte_alphabet() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in the order CLIP's vocabulary lists them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    stand_ins = [chr(b) for b in printable]
    return stand_ins + [chr(256 + n) for n in range(256 - len(printable))]


def new_text_encoder(sizes: CatalogueArchitecture, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained CLIP text encoder over the tokenizer's vocabulary."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=sizes.text_width,
            intermediate_size=4 * sizes.text_width,
            num_hidden_layers=sizes.text_layers,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.5's noise schedule, with the settings that inversion wants."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def assemble(
    vae: AutoencoderKL, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    """The parts as one ordinary Stable Diffusion pipeline."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_parts(folder: str | Path) -> tuple[AutoencoderKL, UNet2DConditionModel, CLIPTextModel, CLIPTokenizer]:
    """The trainable parts of a saved pipeline and its tokenizer, in float32: what training goes on from."""
    kept = {"dtype": torch.float32, "local_files_only": True}
    return (
        AutoencoderKL.from_pretrained(folder, subfolder="vae", **kept),
        UNet2DConditionModel.from_pretrained(folder, subfolder="unet", **kept),
        CLIPTextModel.from_pretrained(folder, subfolder="text_encoder", dtype=torch.float32, local_files_only=True),
        CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer", local_files_only=True),
    )


def save_pipeline(
    folder: Path,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
) -> None:
    """Write a folder that plain `StableDiffusionPipeline.from_pretrained` loads; weights in float16."""
    pipeline = assemble(vae.half(), unet.half(), text_encoder.half(), tokenizer)
    pipeline.save_pretrained(folder, safe_serialization=True, max_shard_size=_MAX_SHARD)
    for path in folder.rglob("*.json"):
        _mend_configuration(path)


def _mend_configuration(path: Path) -> None:
    """Drop the paths that diffusers records, and have the text encoder loaded in float32 like the rest.

    Where no dtype is asked for, diffusers loads its own parts in float32, but transformers in what the
    configuration says; a pipeline of both would not run.
    """
    values = json.loads(path.read_text())
    if not isinstance(values, dict):
        return
    mended = {name: value for name, value in values.items() if name != "_name_or_path"}
    if "dtype" in mended:
        mended["dtype"] = "float32"
    if mended != values:
        path.write_text(json.dumps(mended, indent=2, sort_keys=True) + "\n")
