"""Tensors as bytes: the payloads that artifacts hold and that travel between stages."""

from __future__ import annotations

from collections.abc import Mapping

import safetensors.torch
from torch import Tensor

from pipeline.keys import canonical_json


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Named tensors as one safetensors payload; equal tensors give equal bytes."""
    # Rows of one batch share its memory, which the format refuses to store: hence the copies.
    own = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    return safetensors.torch.save(own)


def unpack(data: bytes) -> dict[str, Tensor]:
    """Read tensors back, with their dtypes and shapes, into memory of their own."""
    return dict(safetensors.torch.load(data))


def tensor_index(tensors: Mapping[str, Tensor]) -> str:
    """JSON of name → dtype and shape: what a payload holds, for readers that do not open it."""
    return canonical_json(
        {name: {"dtype": str(t.dtype).removeprefix("torch."), "shape": list(t.shape)} for name, t in tensors.items()}
    )
