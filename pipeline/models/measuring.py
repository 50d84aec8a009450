"""What measurements need of a model: a clock that waits for its device, and counts of what its networks were asked."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor2_0

from pipeline.models.attention import processed_by
from pipeline.models.stable_diffusion import StableDiffusion


@dataclass(frozen=True, slots=True)
class Passes:
    """How many rows went through each network ("unet", "encoder", "decoder"), forwards and backwards."""

    forward: Counter[str] = field(default_factory=Counter)
    backward: Counter[str] = field(default_factory=Counter)


def now(device: torch.device) -> float:
    """Seconds on a clock that is read once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextlib.contextmanager
def counted_passes(model: StableDiffusion) -> Iterator[Passes]:
    """Count rows, whoever calls the networks, until the context ends."""
    parts, passes = _parts(model), Passes()
    networks = [("unet", parts.unet), ("encoder", parts.vae.encoder), ("decoder", parts.vae.decoder)]
    if model.compiled is not None:
        networks.append(("unet", model.compiled))
    hooks = [network.register_forward_hook(_counting(name, passes)) for name, network in networks]
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()


def _counting(name: str, passes: Passes) -> Any:
    def count(_module: Any, _inputs: Any, output: Any) -> None:
        rows = output if isinstance(output, torch.Tensor) else output[0]
        passes.forward[name] += len(rows)
        if rows.requires_grad:
            rows.register_hook(lambda gradient: passes.backward.update({name: len(gradient)}))

    return count


@contextlib.contextmanager
def weight_gradients(model: StableDiffusion) -> Iterator[None]:
    """The denoiser's weights get gradients, as in code that does not freeze it, until the context ends."""
    unet = _parts(model).unet.requires_grad_(True)
    try:
        yield
    finally:
        unet.requires_grad_(False).zero_grad()


def plain_attention(model: StableDiffusion) -> contextlib.AbstractContextManager[None]:
    """Attention is diffusers' own, until the context ends."""
    return processed_by(_parts(model).unet, AttnProcessor2_0())


def _parts(model: StableDiffusion) -> Any:
    return model.as_pipeline(StableDiffusionPipeline, DDIMScheduler.from_config)
