"""Words of prompts: their alignment, and finding phrases."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.words import absent, aligned, effective_weights, places, telling, words

PROMPTS = st.lists(st.sampled_from(["a", "red", "blue", "mug", "on", "table", ",", "t-shirt"]), max_size=9).map(
    " ".join
)


def _texts(prompt: str, indices: tuple[int, ...] | range) -> list[str]:
    return [words(prompt)[i].text for i in indices]


@given(PROMPTS)
@settings(max_examples=50, deadline=None)
def test_a_prompt_aligns_with_itself_word_for_word(prompt: str) -> None:
    """Nothing is lost or new, in capitals or not."""
    alignment = aligned(prompt, prompt.upper())
    assert alignment.pairs == tuple((range(i, i + 1), range(i, i + 1)) for i in range(len(words(prompt))))
    assert alignment.lost == alignment.new == ()


@given(PROMPTS, PROMPTS)
@settings(max_examples=100, deadline=None)
def test_every_word_is_shared_lost_or_new(source: str, target: str) -> None:
    """Pairs keep their order and name each word once; what is paired and not changed is the same word."""
    alignment = aligned(source, target)
    for side, prompt, changed in ((0, source, alignment.lost), (1, target, alignment.new)):
        paired = [i for pair in alignment.pairs for i in pair[side]]
        assert paired == sorted(set(paired))
        assert set(paired) | set(changed) == set(range(len(words(prompt))))
    for theirs, ours in alignment.pairs:
        if not set(ours) & set(alignment.new):
            assert _texts(source, theirs) == _texts(target, ours)


@pytest.mark.parametrize(
    ("source", "target", "pairs", "lost", "new"),
    [
        ("a red mug", "a blue mug", [("red", "blue")], ["red"], ["blue"]),
        ("a mug", "a shiny mug", [], [], ["shiny"]),
        ("a shiny mug", "a mug", [], ["shiny"], []),
        ("a red mug", "a very dark mug", [("red", "very dark")], ["red"], ["very", "dark"]),
        (
            "a mug on a table",
            "a vase on a lawn",
            [("mug", "vase"), ("table", "lawn")],
            ["mug", "table"],
            ["vase", "lawn"],
        ),
        ("", "a mug", [], [], ["a", "mug"]),
    ],
)
def test_replaced_words_pair_and_added_ones_do_not(
    source: str, target: str, pairs: list[tuple[str, str]], lost: list[str], new: list[str]
) -> None:
    """One to one where as many come as go, else as a whole."""
    alignment = aligned(source, target)
    texts = [(" ".join(_texts(source, theirs)), " ".join(_texts(target, ours))) for theirs, ours in alignment.pairs]
    assert [pair for pair in texts if pair[0] != pair[1]] == pairs
    assert _texts(source, alignment.lost) == lost
    assert _texts(target, alignment.new) == new


def test_a_phrase_is_found_wherever_its_words_stand_together() -> None:
    """In capitals or not, with punctuation as words of its own, and never inside a word."""
    prompt = "A Red T-shirt, red mug's handle"
    assert places("red", prompt) == [range(1, 2), range(6, 7)]
    assert places("t-shirt", prompt) == [range(2, 5)]
    assert places("RED MUG", prompt) == [range(6, 8)]
    assert absent(["shirt", "ed", "mug red", "  ", "handle"], prompt) == ["ed", "mug red", "  "]


def test_weights_that_change_nothing_do_not_count() -> None:
    """Those of 1, and of words that the prompt lacks."""
    assert effective_weights({"blue": 2, "mug": 1, "vase": 3}, "a blue mug") == {"blue": 2.0}


def test_words_that_show_nothing_tell_nothing() -> None:
    """Articles and punctuation are passed over, unless there is nothing else."""
    assert telling((0, 1, 3), "a blue , mug") == (1, 3)
    assert telling((0, 2), "a blue , mug") == (0, 2)
