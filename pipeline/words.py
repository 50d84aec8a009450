"""Prompts as words: which words of two prompts stand for each other, and where a phrase stands in a prompt."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Final

_WORD: Final = re.compile(r"\w+|[^\w\s]+")

# Words that name nothing to be seen, and so no place in a picture.
_FUNCTION_WORDS: Final = frozenset(
    re.findall(r"\w+", "a an the of in on at by to for from with and or is are against into over under near its")
)


@dataclass(frozen=True, slots=True)
class Word:
    """One word, or one run of punctuation, of a prompt; `start` and `stop` are its characters.

    Words are equal by their text alone, in capitals or not.
    """

    text: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Alignment:
    """How the words of a source and a target prompt, each named by its index, correspond.

    Attributes:
        pairs: runs of source words, and the runs of target words that stand in their place, in order.
        lost: source words that the target lacks, the replaced ones among them.
        new: target words that the source lacks, the replacing ones among them.
    """

    pairs: tuple[tuple[range, range], ...]
    lost: tuple[int, ...]
    new: tuple[int, ...]


def words(prompt: str) -> tuple[Word, ...]:
    """The words of a prompt, in order."""
    return tuple(Word(match.group().casefold(), *match.span()) for match in _WORD.finditer(prompt))


def aligned(source: str, target: str) -> Alignment:
    """Align two prompts word by word.

    Words that both have, and as many words as they replace, pair one to one; a run that is replaced by a run of
    another length pairs as a whole (Prompt-to-Prompt, Hertz et al., 2022: word swap and adding a phrase).
    """
    a, b = words(source), words(target)
    pairs: list[tuple[range, range]] = []
    lost: list[int] = []
    new: list[int] = []
    matcher = SequenceMatcher(None, [word.text for word in a], [word.text for word in b], autojunk=False)
    for kind, i, i_stop, j, j_stop in matcher.get_opcodes():
        if kind != "equal":
            lost += range(i, i_stop)
            new += range(j, j_stop)
        if i_stop - i == j_stop - j:
            pairs += [(range(k, k + 1), range(k - i + j, k - i + j + 1)) for k in range(i, i_stop)]
        elif kind == "replace":
            pairs.append((range(i, i_stop), range(j, j_stop)))
    return Alignment(tuple(pairs), tuple(lost), tuple(new))


def places(phrase: str, prompt: str) -> list[range]:
    """The words of a prompt at which a phrase of one or more words stands; empty if it nowhere does."""
    wanted, there = [word.text for word in words(phrase)], [word.text for word in words(prompt)]
    starts = range(len(there) - len(wanted) + 1) if wanted else ()
    return [range(i, i + len(wanted)) for i in starts if there[i : i + len(wanted)] == wanted]


def absent(phrases: Iterable[str], prompt: str) -> list[str]:
    """The phrases that stand nowhere in a prompt."""
    return [phrase for phrase in phrases if not places(phrase, prompt)]


def effective_weights(weights: Mapping[str, float], prompt: str) -> dict[str, float]:
    """The weights that change something: of phrases that the prompt has, and other than 1."""
    return {phrase: float(w) for phrase, w in weights.items() if w != 1 and places(phrase, prompt)}


def telling(indices: Iterable[int], prompt: str) -> tuple[int, ...]:
    """Of these words of a prompt, those that name something to be seen; all of them if none does."""
    chosen, there = tuple(indices), words(prompt)
    seen = tuple(i for i in chosen if there[i].text not in _FUNCTION_WORDS and there[i].text[0].isalnum())
    return seen or chosen
