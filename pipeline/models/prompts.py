"""Words as a model's tokens: where they stand in the text window, and how two prompts' tokens correspond."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.diffusion.control import Wording
from pipeline.words import aligned, effective_weights, places, telling, words


class PromptTokens:
    """A prompt in a tokenizer's window: start token, the words' tokens, end token, padding.

    Attributes:
        prompt: its text.
        of_word: the positions of each word's tokens; none for a word that the window cuts off.
        end: the position of the end token.
    """

    def __init__(self, tokenizer: Any, prompt: str) -> None:
        self.prompt = prompt
        window = int(tokenizer.model_max_length)
        encoded = tokenizer(prompt, truncation=True, max_length=window, return_offsets_mapping=True)
        starts = [start for start, _ in encoded["offset_mapping"]]
        self.end = len(starts) - 1
        self.of_word = [
            [i for i in range(1, self.end) if word.start <= starts[i] < word.stop] for word in words(prompt)
        ]

    def of(self, run: Iterable[int]) -> list[int]:
        """The positions of a run of words."""
        return [token for word in run for token in self.of_word[word]]


def wording(
    tokenizer: Any, sources: Sequence[str], targets: Sequence[str], weights: Sequence[Mapping[str, float]]
) -> Wording:
    """How n target prompts' tokens correspond to their sources', and what weights they have.

    Start and end tokens pair, and so does padding, counted from the end token. Weights of phrases that a target does
    not have are left out; those of phrases that overlap multiply.
    """
    window = int(tokenizer.model_max_length)
    rows = [
        _row(PromptTokens(tokenizer, source), PromptTokens(tokenizer, target), own, window)
        for source, target, own in zip(sources, targets, weights, strict=True)
    ]
    taken, gains, lost, new = zip(*rows, strict=True)
    mapped = torch.stack(taken)
    return Wording(
        taken=mapped,
        kept=(mapped.sum(dim=1) == 0).float(),
        gains=torch.stack(gains),
        lost=torch.nn.utils.rnn.pad_sequence(list(lost), batch_first=True),
        new=torch.nn.utils.rnn.pad_sequence(list(new), batch_first=True),
    )


def _row(
    source: PromptTokens, target: PromptTokens, weights: Mapping[str, float], window: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One row of each field of `Wording` but `kept`."""
    alignment = aligned(source.prompt, target.prompt)
    taken = torch.zeros(window, window)
    taken[0, 0] = 1
    for theirs, ours in alignment.pairs:
        s, t = source.of(theirs), target.of(ours)
        if len(s) == len(t):
            taken[s, t] = 1
        elif s and t:
            # Together the tokens of a word, or of a run of words, attend as much as those that they replace.
            taken[torch.tensor(s)[:, None], torch.tensor(t)] = 1 / len(t)
    after = min(window - source.end, window - target.end)
    taken[torch.arange(source.end, source.end + after), torch.arange(target.end, target.end + after)] = 1
    gains, weighted = torch.ones(window), list[int]()
    for phrase, weight in effective_weights(weights, target.prompt).items():
        for place in places(phrase, target.prompt):
            gains[target.of(place)] *= weight
            weighted += place
    lost, new = telling(alignment.lost, source.prompt), telling(alignment.new, target.prompt)
    return taken, gains, _marked(source, lost, window), _marked(target, {*new, *weighted}, window)


def _marked(prompt: PromptTokens, indices: Collection[int], window: int) -> Tensor:
    marked = torch.zeros(max(1, len(indices)), window)  # at least an empty word
    for row, word in enumerate(sorted(indices)):
        marked[row, prompt.of_word[word]] = 1
    return marked
