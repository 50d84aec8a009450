"""What rows of one call of the network take from other rows of it: values that the model follows."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class CrossAttention:
    """Cross-attention maps, mixed: a row's map is `own · its map`, and for some rows `+ source's map @ taken`.

    Maps are (cells, tokens) per head. A map only ever multiplies the tokens' values, so that mixing maps is
    mixing values: none has to be held (`pipeline/models/attention.py`).

    Attributes:
        own: (n, tokens) factor of each token's own map; 1 leaves it alone.
        rows: (m,) the rows that take from another one.
        sources: (m,) the row that each of them takes from.
        taken: (m, tokens of the source, tokens) how much of a source token's map each token takes.
    """

    own: Tensor
    rows: Tensor
    sources: Tensor
    taken: Tensor


@dataclass(frozen=True, slots=True)
class Control:
    """What n rows take from each other; None takes nothing.

    Attributes:
        structure_of: (n,) the row whose decoder features a row takes, where layout is settled and colour is not
            (Plug-and-Play, Tumanyan et al., 2023).
        self_attention_of: (n,) the row whose queries and keys a row attends to itself with, and so whose
            self-attention maps it has, its values being its own (Hertz et al., 2022; Tumanyan et al., 2023).
        cross_attention: maps of the prompts' tokens, taken over and weighted.
    """

    structure_of: Tensor | None = None
    self_attention_of: Tensor | None = None
    cross_attention: CrossAttention | None = None


NO_CONTROL: Final = Control()


@dataclass(frozen=True, slots=True)
class Wording:
    """How the tokens of n target prompts correspond to those of their source prompts.

    Attributes:
        taken: (n, tokens, tokens) share of each source token's map that each target token takes.
        kept: (n, tokens) 1 for target tokens that take from none, else 0.
        gains: (n, tokens) weight of each target token.
        lost: (n, words, tokens) 1 at the tokens of each source word that the target lacks; empty words fill up.
        new: (n, words, tokens) the same for target words that the source lacks, and those with a weight.
    """

    taken: Tensor
    kept: Tensor
    gains: Tensor
    lost: Tensor
    new: Tensor

    def to(self, device: torch.device) -> Wording:
        return Wording(*(getattr(self, field.name).to(device) for field in fields(self)))
