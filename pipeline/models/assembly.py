"""A backbone from its weights: the family's pipeline, LoRA weights fused into it, another autoencoder put in place."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderTiny
from safetensors import SafetensorError

from pipeline.errors import JobError
from pipeline.models.backbone import Backbone
from pipeline.models.checking import check_sizes
from pipeline.models.families import FAMILIES, Family, pipeline_class
from pipeline.models.loading import Lora, model_fingerprint, resolve_autoencoder, resolve_lora, resolve_model
from pipeline.models.stable_diffusion import StableDiffusion

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Parts of a pipeline that neither encode, predict nor decode.
_UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
# SD3's T5, without which it works, and which takes twice the memory of all the rest.
_OPTIONAL = ("text_encoder_3", "tokenizer_3")
# What loading raises where a folder is not what it says.
_NOT_LOADED = (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, SafetensorError)


def load_backbone(
    model: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    lora: Sequence[str] = (),
    preview_vae: str | None = None,
) -> Backbone:
    """Load a model of any family; see `pipeline.models.loading` for what `model`, `lora` and `preview_vae` may be.

    `device` None takes a GPU where there is one, `dtype` None bfloat16 there.

    Raises:
        JobError: one of them is not there, not of a family in `FAMILIES`, or does not fit the others.
    """
    name = model or "bundled"
    kind = pipeline_class(model)
    fingerprint = model_fingerprint(model, lora, preview_vae)
    # A job has its own progress; the libraries' bars, and their advice about optional packages, would break it.
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    folder = resolve_model(model)
    check_sizes(folder, name)
    pipeline = _pipeline(kind, folder, name)
    for part in pipeline.components.values():
        _check_complete(f"model {name}", part)
    for text in lora:
        _fuse(pipeline, text, resolve_lora(text))
    if preview_vae is not None:
        pipeline.vae = _tiny_autoencoder(preview_vae, pipeline.vae)
    placed, precision = placement(device, dtype)
    try:
        return _class(FAMILIES[kind])(pipeline, name, fingerprint, placed, precision)
    except RuntimeError as error:  # its device is broken, or has too little memory: no row is to blame
        raise JobError(f"model {name}: {placed}: {_line(error)}") from error


def placement(device: str | None = None, dtype: str | None = None) -> tuple[torch.device, torch.dtype]:
    """Where a model runs and in which precision, as `load_backbone` says."""
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return chosen, _DTYPES[dtype or ("float32" if chosen.type == "cpu" else "bfloat16")]


def load_stable_diffusion(model: str | None = None, device: str | None = None) -> StableDiffusion:
    """The same for what only knows Stable Diffusion 1.x/2.x: benchmarks, whose peers run on no other family.

    Raises:
        JobError: the model cannot be loaded, or is of another family.
    """
    found = load_backbone(model, device)
    if not isinstance(found, StableDiffusion):
        raise JobError(f"model {found.name}: expected Stable Diffusion 1.x/2.x; got {found.family.title}")
    return found


def _class(family: Family) -> type[Backbone]:
    # Each family brings diffusers' classes with it, which take their time to import.
    found: type[Backbone] = getattr(importlib.import_module(f"pipeline.models.{family.module}"), family.name)
    return found


def _pipeline(kind: str, folder: Path, name: str) -> Any:
    found = getattr(diffusers, kind)
    parts = inspect.signature(found.__init__).parameters
    left_out = [p for p in parts if p in _UNUSED or (p in _OPTIONAL and not (folder / p).is_dir())]
    try:
        return found.from_pretrained(
            folder,
            dtype=torch.float32,  # until LoRA weights are fused
            use_safetensors=True,
            local_files_only=True,
            **dict.fromkeys(left_out),
        )
    except _NOT_LOADED as error:
        raise JobError(f"model {name}: expected a {FAMILIES[kind].title} pipeline; got {_line(error)}") from error


def _fuse(pipeline: Any, text: str, lora: Lora) -> None:
    """Add LoRA weights to the pipeline's own."""
    try:
        pipeline.load_lora_weights(
            lora.path.parent, weight_name=lora.path.name, use_safetensors=True, local_files_only=True
        )
        fits = bool(pipeline.get_list_adapters())
        pipeline.fuse_lora(lora_scale=lora.scale)
        pipeline.unload_lora_weights()
    except _NOT_LOADED as error:
        raise JobError(f"lora {text}: {_line(error)}") from error
    if not fits:
        raise JobError(f"lora {text}: expected weights for a {type(pipeline).__name__}; got none that fit")


def _tiny_autoencoder(name: str, own: Any) -> Any:
    folder = resolve_autoencoder(name)
    try:
        tiny = AutoencoderTiny.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, local_files_only=True)
    except _NOT_LOADED as error:
        raise JobError(f"preview_vae {name}: expected an AutoencoderTiny; got {_line(error)}") from error
    _check_complete(f"preview_vae {name}", tiny)
    expected, got = ((vae.config.latent_channels, len(vae.config.block_out_channels)) for vae in (own, tiny))
    if expected != got:
        raise JobError(
            f"preview_vae {name}: expected latents of {expected[0]} channels and {expected[1]} levels, as the model's; "
            f"got {got[0]} and {got[1]}"
        )
    return tiny


def _check_complete(what: str, part: Any) -> None:
    """Refuse a network that was loaded without some of its weights, which diffusers leaves on no device."""
    if isinstance(part, torch.nn.Module):
        for name, parameter in part.named_parameters():
            if parameter.is_meta:
                raise JobError(f"{what}: expected the weights of {type(part).__name__}; got none for {name}")


def _line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
