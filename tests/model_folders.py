"""Folders of every model family: tiny pipelines of diffusers' real classes, randomly initialised."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from pipeline.demo.scene import caption_words
from pipeline.models.catalogue import new_tokenizer
from tests.small_model import save_small_model

_NOISE: Final = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SIDE: Final = 32  # pixels, of every model here


def _tokenizer() -> CLIPTokenizer:
    return new_tokenizer(caption_words())


def _t5_tokenizer() -> T5Tokenizer:
    letters = [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    return T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *letters], extra_ids=0)


def _text_encoder(kind: type[Any], tokenizer: CLIPTokenizer, width: int, **settings: Any) -> Any:
    return kind(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **settings,
        )
    )


def new_autoencoder(latent_channels: int = 4, **settings: Any) -> AutoencoderKL:
    """An untrained autoencoder that halves the side."""
    return AutoencoderKL(
        sample_size=SIDE,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=latent_channels,
        layers_per_block=1,
        norm_num_groups=4,
        **settings,
    )


def _unet(width: int, **settings: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIDE // 2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=width,
        **settings,
    )


def _saved(folder: Path, pipeline: Any) -> Path:
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def save_sd2(folder: Path, seed: int = 0) -> Path:
    """SD 2.x: v-prediction, linear projections, heads by level, and a text encoder with OpenCLIP's activation."""
    torch.manual_seed(seed)
    tokenizer = _tokenizer()
    return _saved(
        folder,
        StableDiffusionPipeline(
            vae=new_autoencoder(),
            unet=_unet(24, use_linear_projection=True, attention_head_dim=[2, 4], upcast_attention=True),
            text_encoder=_text_encoder(CLIPTextModel, tokenizer, 24, hidden_act="gelu", projection_dim=16),
            tokenizer=tokenizer,
            scheduler=DDIMScheduler(
                **_NOISE, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ),
    )


def save_sdxl(folder: Path, seed: int = 0) -> Path:
    """SDXL: two text encoders of different widths, a pooled vector, picture sizes, and Euler's scheduler."""
    torch.manual_seed(seed)
    tokenizer, time_width, pooled = _tokenizer(), 8, 40
    return _saved(
        folder,
        StableDiffusionXLPipeline(
            vae=new_autoencoder(force_upcast=True, scaling_factor=0.13025),
            unet=_unet(
                16 + 20,
                use_linear_projection=True,
                attention_head_dim=[2, 4],
                addition_embed_type="text_time",
                addition_time_embed_dim=time_width,
                projection_class_embeddings_input_dim=6 * time_width + pooled,
            ),
            text_encoder=_text_encoder(CLIPTextModel, tokenizer, 16),
            text_encoder_2=_text_encoder(
                CLIPTextModelWithProjection, tokenizer, 20, hidden_act="gelu", projection_dim=pooled
            ),
            tokenizer=tokenizer,
            tokenizer_2=_tokenizer(),
            scheduler=EulerDiscreteScheduler(**_NOISE, timestep_spacing="leading"),
        ),
    )


def save_sd3(folder: Path, seed: int = 0, *, t5: bool = False) -> Path:
    """SD3: a rectified flow with a transformer over two CLIP encoders' tokens, and T5's or zeros in their place."""
    torch.manual_seed(seed)
    tokenizer = _tokenizer()
    t5_tokenizer = _t5_tokenizer() if t5 else None
    sizes = T5Config(vocab_size=64, d_model=48, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    clips = [_text_encoder(CLIPTextModelWithProjection, tokenizer, width, projection_dim=width) for width in (16, 20)]
    return _saved(
        folder,
        StableDiffusion3Pipeline(
            vae=new_autoencoder(16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False),
            transformer=SD3Transformer2DModel(
                sample_size=SIDE // 2,
                patch_size=2,
                in_channels=16,
                out_channels=16,
                num_layers=3,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=48,
                caption_projection_dim=16,
                pooled_projection_dim=16 + 20,
                pos_embed_max_size=32,
            ),
            text_encoder=clips[0],
            text_encoder_2=clips[1],
            text_encoder_3=T5EncoderModel(sizes) if t5 else None,
            tokenizer=tokenizer,
            tokenizer_2=_tokenizer(),
            tokenizer_3=t5_tokenizer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        ),
    )


def save_tiny_autoencoder(folder: Path, latent_channels: int = 4, seed: int = 0) -> Path:
    """A tiny autoencoder for latents of half the side, as all models here have."""
    torch.manual_seed(seed)
    AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=latent_channels,
    ).save_pretrained(folder)
    return folder


FOLDERS: Final[Mapping[str, Callable[..., Path]]] = {
    "sd1": save_small_model,
    "sd2-v": save_sd2,
    "sdxl": save_sdxl,
    "sd3": save_sd3,
    "sd3-t5": lambda folder, seed=0: save_sd3(folder, seed, t5=True),
}
