"""Slots: many images, each at its own step and iteration, in shared calls of the network.

An algorithm is written for one image, as papers write it: a generator that asks for what it needs of the network and
is sent the answer. A fixed number of them, the slots, are busy at a time. What they ask for at one moment is answered
together, whatever step each has reached; one that has converged asks for its next step, and one that is finished makes
room for the next image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

# (latents (n, c, h, w), steps (n,) in 1..N, embeddings (n, tokens, width)) → the network's output.
PredictAt = Callable[[Tensor, Tensor, Tensor], Tensor]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Asks for the network's output (c, h, w) for a latent (c, h, w) at a step under an embedding (tokens, width)."""

    z: Tensor
    step: int
    embedding: Tensor


@dataclass(frozen=True, slots=True)
class Land(Evaluate):
    """Asks where a step lands, by how much it misses `goal` (c, h, w), and how the embedding would have to move.

    A step is affine in the network's output: it lands at `rest + gain · output`, `rest` being (c, h, w).

    Attributes:
        enough: of an error, whether it will do.
        descends: whether the error's gradient is wanted where it will not do.
    """

    rest: Tensor
    gain: float
    goal: Tensor
    enough: Callable[[float], bool]
    descends: bool


@dataclass(frozen=True, slots=True)
class Landing:
    """Where a step landed (c, h, w), the mean square of what it missed by, and the gradient (tokens, width) of that."""

    z: Tensor
    error: float
    gradient: Tensor | None


Row = Generator[Evaluate, Any, _T]  # a Land is answered with a Landing, another Evaluate with a Tensor


def run(predict: PredictAt, rows: Iterable[Row[_T]], slots: int) -> list[_T]:
    """Run one generator per image, at most `slots` at a time → their results, in order."""
    results: dict[int, _T] = {}
    busy: dict[int, tuple[Row[_T], Evaluate]] = {}

    def go_on(i: int, row: Row[_T], answer: Tensor | Landing | None) -> None:
        try:
            busy[i] = row, row.send(answer)
        except StopIteration as end:
            busy.pop(i, None)
            results[i] = end.value

    waiting = enumerate(rows)
    while True:
        while len(busy) < slots and (entry := next(waiting, None)) is not None:
            go_on(*entry, None)
        if not busy:
            return [results[i] for i in range(len(results))]
        for i, answer in _answers(predict, {i: ask for i, (_, ask) in busy.items()}).items():
            go_on(i, busy[i][0], answer)


def _answers(predict: PredictAt, asks: Mapping[int, Evaluate]) -> dict[int, Tensor | Landing]:
    """Answer all that is asked, in one call without gradients and one with."""
    answers: dict[int, Tensor | Landing] = {}
    descents = {i: ask for i, ask in asks.items() if isinstance(ask, Land) and ask.descends}
    others = {i: ask for i, ask in asks.items() if i not in descents}
    if others:
        with torch.no_grad():
            outputs = dict(zip(others, _outputs(predict, list(others.values())), strict=True))
            lands = {i: ask for i, ask in others.items() if isinstance(ask, Land)}
            if lands:
                landed, errors = _landed(list(lands.values()), torch.stack([outputs[i] for i in lands]))
        answers |= outputs
        if lands:
            answers |= {i: Landing(z, e, None) for i, z, e in zip(lands, landed, errors.tolist(), strict=True)}
    if descents:
        answers |= zip(descents, _descended(predict, list(descents.values())), strict=True)
    return answers


def _descended(predict: PredictAt, asks: Sequence[Land]) -> list[Landing]:
    embeddings = torch.stack([ask.embedding for ask in asks]).requires_grad_()
    with torch.enable_grad():
        landed, losses = _landed(asks, _outputs(predict, asks, embeddings))
    errors = losses.tolist()
    going = [not ask.enough(error) for ask, error in zip(asks, errors, strict=True)]
    gradients: list[Tensor | None] = [None] * len(asks)
    if any(going):
        # Of a mean over many values each has a gradient that half precision, in which a network may run, rounds to
        # nothing; a power of two changes no other bit of it (Micikevicius et al., 2018, sec. 3.2).
        scale = 2.0 ** math.ceil(math.log2(landed[0].numel()))
        # A sum over rows keeps each row's gradient what it would be alone.
        (gradient,) = torch.autograd.grad(losses[torch.tensor(going)].sum() * scale, embeddings)
        gradients = [g if goes else None for g, goes in zip(gradient / scale, going, strict=True)]
    return [Landing(*found) for found in zip(landed.detach(), errors, gradients, strict=True)]


def _outputs(predict: PredictAt, asks: Sequence[Evaluate], embeddings: Tensor | None = None) -> Tensor:
    z = torch.stack([ask.z for ask in asks])
    steps = torch.tensor([ask.step for ask in asks], device=z.device)
    embeddings = torch.stack([ask.embedding for ask in asks]) if embeddings is None else embeddings
    return predict(z, steps, embeddings).float()


def _landed(asks: Sequence[Land], outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Where steps with these outputs (n, c, h, w) land, and their errors (n,)."""
    gains = torch.tensor([ask.gain for ask in asks], device=outputs.device).view(-1, 1, 1, 1)
    landed = torch.stack([ask.rest for ask in asks]) + gains * outputs
    return landed, (landed - torch.stack([ask.goal for ask in asks])).square().mean(dim=(1, 2, 3))
