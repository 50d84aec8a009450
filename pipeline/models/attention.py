"""Attention under control: diffusers' attention processors that take maps from other rows, and weigh and watch them.

A map multiplies values and nothing else. So a map taken from another row is attention with that row's queries and keys,
maps that are mixed or weighted are values that are, and a token's map is attention to a value that is 1 there and
0 elsewhere: everything stays on the fused kernel, and no map is ever held.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.diffusion.control import Control, CrossAttention

# Maps of fewer cells a side, or less than this share of the latents' side, say little about where (of 12 scenes of the
# bundled model, maps at 8 x 8 found changed objects at an IoU of 0.70, and at 4 x 4 of 0.33).
_LEAST_CELLS: Final = 8
_LEAST_SHARE: Final = 1 / 4
# What a GPU's kernels are made for in half precision: narrower heads, such as Stable Diffusion 1.x's of 40, are padded.
_TILE: Final = 64
_LONG: Final = 2048  # cells from which cuDNN's kernel is worth its preparation
_CUDNN_FIRST: Final = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


@dataclass
class Watched:
    """Cross-attention maps of some words, gathered over the layers of one call.

    Attributes:
        words: (n, words, tokens) 1 at the tokens of each word.
        size: (height, width) of the latents.
        maps: (n, words, height, width) of each layer, averaged over heads.
    """

    words: Tensor
    size: tuple[int, int]
    maps: list[Tensor] = field(default_factory=list)

    def look(self, query: Tensor, key: Tensor) -> None:
        """Keep one layer's maps, from queries and keys (n, heads, cells or tokens, width)."""
        values = self.words.to(query).transpose(1, 2)[:, None].expand(-1, query.shape[1], -1, -1)
        seen = _attend(query, key, values).float().mean(dim=1).transpose(1, 2)
        self.maps.append(seen.reshape(*seen.shape[:2], *_shape(seen.shape[2], self.size)))

    def mean(self) -> Tensor:
        """The maps (n, words, height, width) at the latents' size, averaged over the layers that are fine enough."""
        sides = [min(layer.shape[-2:]) for layer in self.maps]
        least = min(max(sides), max(_LEAST_CELLS, min(self.size) * _LEAST_SHARE))
        usable = [layer for layer, side in zip(self.maps, sides, strict=True) if side >= least]
        return torch.stack([F.interpolate(m, self.size, mode="bilinear", align_corners=False) for m in usable]).mean(0)


class ControlledAttention:
    """An attention processor: diffusers' `AttnProcessor2_0`, whose rows follow a `Control`."""

    def __init__(self, control: Control, watched: Watched | None = None) -> None:
        self._control = control
        self._watched = watched

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        assert attention_mask is None, "prompts are attended to in full, padding and all"
        residual, shape = hidden_states, hidden_states.shape
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        if len(shape) == 4:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        attended = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and attn.norm_cross:
            attended = attn.norm_encoder_hidden_states(attended)
        query, key, value = (
            projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for projected in (attn.to_q(hidden_states), attn.to_k(attended), attn.to_v(attended))
        )
        query = query if attn.norm_q is None else attn.norm_q(query)
        key = key if attn.norm_k is None else attn.norm_k(key)
        result = self._attend(query, key, value, across=encoder_hidden_states is not None)
        result = attn.to_out[1](attn.to_out[0](result.transpose(1, 2).flatten(2).to(query.dtype)))
        if len(shape) == 4:
            result = result.transpose(1, 2).reshape(shape)
        if attn.residual_connection:
            result = result + residual
        return result / attn.rescale_output_factor  # type: ignore[no-any-return]

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, *, across: bool) -> Tensor:
        if not across:
            of = self._control.self_attention_of
            return _attend(query, key, value) if of is None else _attend(query[of], key[of], value)
        if self._watched is not None:
            self._watched.look(query, key)
        mixed = self._control.cross_attention
        return _attend(query, key, value) if mixed is None else _mixed(query, key, value, mixed)


def _mixed(query: Tensor, key: Tensor, value: Tensor, control: CrossAttention) -> Tensor:
    result = _attend(query, key, value * control.own.to(value)[:, None, :, None])
    if len(control.rows):
        taken = control.taken.to(value)[:, None] @ value[control.rows]
        result = result.index_add(0, control.rows, _attend(query[control.sources], key[control.sources], taken))
    return result


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    if query.is_cuda and query.dtype is not torch.float32:
        return attention_on_gpus(query, key, value)
    return F.scaled_dot_product_attention(query, key, value)


def attention_on_gpus(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention (n, heads, cells or tokens, width) in half precision, narrow heads padded (infra/decisions/0022)."""
    scale, width = query.shape[-1] ** -0.5, value.shape[-1]
    if query.shape[-1] < _TILE:
        query, key, value = (F.pad(x, (0, max(0, _TILE - x.shape[-1]))) for x in (query, key, value))
    with _kernels(query.shape[-2], key.shape[-2]):
        return F.scaled_dot_product_attention(query, key, value, scale=scale)[..., :width]


def _kernels(cells: int, attended: int) -> contextlib.AbstractContextManager[None]:
    """Of cuDNN for what is long, in a compiled network: it takes a second to prepare for each number of rows."""
    if not torch.compiler.is_compiling() or min(cells, attended) < _LONG:
        return contextlib.nullcontext()
    return sdpa_kernel(_CUDNN_FIRST, set_priority=True)


def _shape(cells: int, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the level of the network that has so many cells; each level halves, rounding up."""
    height, width = size
    while height * width > cells:
        height, width = -(-height // 2), -(-width // 2)
    assert height * width == cells, f"no level of {size} has {cells} cells"
    return height, width


@contextlib.contextmanager
def processed_by(unet: Any, processor: Any) -> Iterator[None]:
    """All attention of a network goes through a processor, until the context ends."""
    before = unet.attn_processors
    unet.set_attn_processor(processor)
    try:
        yield
    finally:
        unet.set_attn_processor(before)
