"""Arithmetic: what one row costs each network, counted once, times the rows that went through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from pipeline.models.measuring import Passes, plain_attention
from pipeline.models.stable_diffusion import StableDiffusion


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)  # type: ignore[no-any-return, no-untyped-call]


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)  # type: ignore[no-any-return, no-untyped-call]


# Of attention's fused kernels torch counts those of GPUs only.
_ON_CPU: Final = "_scaled_dot_product_flash_attention_for_cpu"
_MORE_FORMULAS: Final[Mapping[Any, Any]] = {
    getattr(torch.ops.aten, _ON_CPU): _attention,
    getattr(torch.ops.aten, f"{_ON_CPU}_backward"): _attention_backward,
}


@dataclass(frozen=True, slots=True)
class RowCost:
    """FLOPs of one row through each network: forwards, and through the denoiser also backwards."""

    forward: Mapping[str, int]
    backward: int

    def of(self, passes: Passes) -> int:
        """FLOPs of all these passes."""
        forward = sum(self.forward[name] * rows for name, rows in passes.forward.items())
        return forward + self.backward * passes.backward["unet"]


def row_cost(model: StableDiffusion, size: int) -> RowCost:
    """Count one row of `size` × `size` pixels.

    Its gradient goes where gradients now go: with the network frozen, to the embedding alone. The text encoder, which
    sees each prompt once, is left out.
    """
    embedding = model.encode_prompts([""])
    pixels = torch.zeros(1, 3, size, size)
    z = model.encode_images(pixels)
    timestep = torch.tensor([1], device=model.device)

    def forward() -> Tensor:
        return model.predict(z, timestep, embedding)

    def forward_and_back() -> None:
        model.predict(z, timestep, embedding.clone().requires_grad_()).sum().backward()  # type: ignore[no-untyped-call]

    with plain_attention(model):  # what ours multiplies by the zeros of a padding is no work done
        with torch.no_grad():
            once = flops_of(forward)
        both = flops_of(forward_and_back)
    return RowCost(
        {
            "unet": once,
            "encoder": flops_of(lambda: model.encode_images(pixels)),
            "decoder": flops_of(lambda: model.decode_latents(z)),
        },
        both - once,
    )


def flops_of(call: Callable[[], object]) -> int:
    """The FLOPs of a call: its products and convolutions, a multiplication and an addition being two."""
    with FlopCounterMode(display=False, custom_mapping=dict(_MORE_FORMULAS)) as counter:
        call()
    return int(counter.get_total_flops())
