"""Who takes what from whom while n edits run with their held sources beside them.

A call of the network has the rows of guidance's unconditional branch, if the step is guided, then those of its
conditional one; each branch has the n edits, then the sources of those that are held at that step. Words are the
conditional branch's alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.diffusion.control import NO_CONTROL, Control, CrossAttention, Wording


@dataclass(frozen=True, slots=True)
class Mixing:
    """Prompt-to-Prompt's maps (Hertz et al., 2022) of n edits, by their strengths.

    At strength 0 and below an edit's embedding has its source's words, and all its maps are the source's; at 1 and
    above it has the target's, and maps are taken as `Wording` says. Between, both in these shares, so that an edit
    begins at its source whatever its words.

    Attributes:
        taken: (n, tokens, tokens) share of each source token's map that each token takes, weight and all.
        kept: (n, tokens) factor of each token's own map where maps are taken.
        gains: (n, tokens) factor of each token's own map where they are not: its weight.
        weighted: whether any weight changes something.
    """

    taken: Tensor
    kept: Tensor
    gains: Tensor
    weighted: bool


def mixing_of(wording: Wording, strength: Tensor) -> Mixing:
    """Maps of edits at strengths (n,)."""
    s = strength.float().clamp(0, 1).view(-1, 1)
    gains = 1 + s * (wording.gains - 1)
    same = torch.eye(wording.taken.shape[-1], device=s.device)
    taken = torch.lerp(same, wording.taken, s[..., None])
    return Mixing(taken * gains[:, None], s * wording.kept * gains, gains, bool((gains != 1).any()))


def taken_from(n: int, held: Tensor, active: Tensor, branches: int) -> Tensor | None:
    """The row that each row of all branches takes from: of the `held` edits, those `active` (n,) from their source."""
    taking = active[held]
    if not bool(taking.any()):
        return None
    branch = torch.arange(n + len(held), device=held.device)
    branch[held[taking]] = branch[n:][taking]
    return torch.cat([i * len(branch) + branch for i in range(branches)])


def mixed_at(mixing: Mixing, n: int, held: Tensor, active: Tensor, branches: int) -> CrossAttention | None:
    """The cross-attention of such a call: `active` (n,) edits take their sources' maps, and weights hold always."""
    taking = active[held]
    if not mixing.weighted and not bool(taking.any()):
        return None
    rows, branch = held[taking], n + len(held)
    conditional = (branches - 1) * branch
    own = torch.ones(branches * branch, mixing.gains.shape[-1], device=held.device)
    own[conditional : conditional + n] = torch.where(active[:, None], mixing.kept, mixing.gains)
    sources = conditional + n + taking.nonzero()[:, 0]
    return CrossAttention(own, conditional + rows, sources, mixing.taken[rows])


def changed_words(wording: Wording) -> Tensor:
    """The changed words (2n, words, tokens) of n sources and their n targets."""
    width = max(wording.lost.shape[1], wording.new.shape[1])
    padded = [
        torch.nn.functional.pad(words, (0, 0, 0, width - words.shape[1])) for words in (wording.lost, wording.new)
    ]
    return torch.cat(padded)


def weighted_targets(wording: Wording) -> Control:
    """The weights of a call of n sources and their n targets."""
    if bool((wording.gains == 1).all()):
        return NO_CONTROL
    own, nobody = (
        torch.cat((torch.ones_like(wording.gains), wording.gains)),
        torch.arange(0, device=wording.gains.device),
    )
    return Control(cross_attention=CrossAttention(own, nobody, nobody, wording.taken[:0]))
