"""Who takes what from whom while n edits run with their held sources beside them.

A call of the network has the rows of guidance's unconditional branch, if the step is guided, then those of its
conditional one; each branch has the n edits, then the sources of those that are held at that step, each once for all
edits of its image. Words are the conditional branch's alone.
"""

from __future__ import annotations

from collections.abc import Sequence
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


@dataclass(frozen=True, slots=True)
class Images:
    """The images that n edits are of.

    Attributes:
        of: (n,) in 0..m - 1, the image of each edit.
        first: (m,) the first edit of each image, whose tensors stand for it.
    """

    of: Tensor
    first: Tensor

    @staticmethod
    def named(names: Sequence[int], device: torch.device) -> Images:
        """Images told apart by numbers, one per edit."""
        first = list(dict.fromkeys(names))
        return Images(
            torch.tensor([first.index(name) for name in names], device=device),
            torch.tensor([names.index(name) for name in first], device=device),
        )

    def apart(self) -> Images:
        """The same edits, as if each were of an image of its own."""
        each = torch.arange(len(self.of), device=self.of.device)
        return Images(each, each)

    def with_sources(self, rows: Tensor) -> Tensor:
        """Rows (n, …) of edits, then those of their images' sources, which are the same for all edits of an image."""
        return torch.cat((rows, rows[self.first]))

    def beside(self, held: Tensor) -> Beside:
        """The sources of the `held` (n,) edits."""
        running = torch.zeros_like(self.first, dtype=torch.bool)
        running[self.of[held]] = True
        return Beside(len(self.of), running.nonzero()[:, 0], (running.cumsum(0) - 1)[self.of])


@dataclass(frozen=True, slots=True)
class Beside:
    """The sources that run beside n edits at one step.

    Attributes:
        images: (k,) the image of each.
        place: (n,) the place among them of each edit's own; of an edit without one, no matter.
    """

    n: int
    images: Tensor
    place: Tensor

    def taken_from(self, active: Tensor, branches: int) -> Tensor | None:
        """The row that each row of all branches takes from: that of `active` (n,) edits is their source's."""
        if not bool(active.any()):
            return None
        branch = torch.arange(self.n + len(self.images), device=active.device)
        branch[: self.n] = torch.where(active, self.n + self.place, branch[: self.n])
        return torch.cat([i * len(branch) + branch for i in range(branches)])

    def mixed(self, mixing: Mixing, active: Tensor, branches: int) -> CrossAttention | None:
        """The cross-attention of such a call: `active` (n,) edits take their sources' maps, and weights hold always."""
        if not mixing.weighted and not bool(active.any()):
            return None
        rows, branch = active.nonzero()[:, 0], self.n + len(self.images)
        conditional = (branches - 1) * branch
        own = torch.ones(branches * branch, mixing.gains.shape[-1], device=active.device)
        own[conditional : conditional + self.n] = torch.where(active[:, None], mixing.kept, mixing.gains)
        return CrossAttention(own, conditional + rows, conditional + self.n + self.place[rows], mixing.taken[rows])


@dataclass(frozen=True, slots=True)
class Held:
    """Which of n edits, each (n,) bool, take their source's structure at a step, its self- and its cross-attention."""

    structure: Tensor
    self_attention: Tensor
    cross_attention: Tensor


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the network.

    Attributes:
        rows: (n + k,) who runs, of n edits and then the sources of all their images.
        sources: (k,) the first edit of each running source's image.
        scales: (n + k,) the guidance of these rows.
        branches: how often they run, 2 with guidance's unconditional branch before its conditional one.
        control: what rows take from each other, over all branches.
    """

    rows: Tensor
    sources: Tensor
    scales: Tensor
    branches: int
    control: Control


def call_of(
    images: Images, mixing: Mixing, held: Held, guidance_scale: Tensor, fitted_scale: Tensor, *, guides: bool
) -> Call:
    """The call of a step that `guides` or not: edits at guidance scales (n,), sources at those they were fitted at."""
    n, beside = len(images.of), images.beside(held.structure | held.self_attention | held.cross_attention)
    sources = images.first[beside.images]
    scales = torch.cat((guidance_scale, fitted_scale[sources]))
    branches = 2 if guides and bool((scales != 1).any()) else 1
    return Call(
        torch.cat((torch.arange(n, device=scales.device), n + beside.images)),
        sources,
        scales,
        branches,
        Control(
            beside.taken_from(held.structure, branches),
            beside.taken_from(held.self_attention, branches),
            beside.mixed(mixing, held.cross_attention, branches),
        ),
    )


def changed_words(wording: Wording) -> Tensor:
    """The changed words (2n, words, tokens) of n targets and their n sources."""
    width = max(wording.lost.shape[1], wording.new.shape[1])
    padded = [
        torch.nn.functional.pad(words, (0, 0, 0, width - words.shape[1])) for words in (wording.new, wording.lost)
    ]
    return torch.cat(padded)


def weighted_targets(wording: Wording, sources: int) -> Control:
    """The weights of a call of n targets and some sources."""
    if bool((wording.gains == 1).all()):
        return NO_CONTROL
    own = torch.cat((wording.gains, wording.gains.new_ones(sources, wording.gains.shape[1])))
    nobody = torch.arange(0, device=own.device)
    return Control(cross_attention=CrossAttention(own, nobody, nobody, wording.taken[:0]))
