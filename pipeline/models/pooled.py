"""A prompt's pooled vector beside its tokens, in one tensor: what methods learn, interpolate and store stays one thing.

The vector follows the tokens, in as many rows of their width as it takes, filled up with zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor


def packed(tokens: Tensor, pooled: Tensor) -> Tensor:
    """Tokens (tokens, width) and a vector (p,) → one embedding (tokens + rows, width)."""
    width = tokens.shape[-1]
    rows = torch.nn.functional.pad(pooled, (0, -len(pooled) % width)).view(-1, width)
    return torch.cat((tokens, rows))


def unpacked(embedding: Tensor, pooled_width: int) -> tuple[Tensor, Tensor]:
    """Embeddings (n, tokens + rows, width) → tokens (n, tokens, width) and vectors (n, pooled_width).

    No gradient reaches the vector: a fit moves tokens, and the vector stays the prompt's (infra/decisions/0011).
    """
    rows = -(-pooled_width // embedding.shape[-1])
    return embedding[:, :-rows], embedding[:, -rows:].detach().flatten(1)[:, :pooled_width]
