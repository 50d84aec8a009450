"""The catalogue's vocabulary: scenes, their captions, and which of them training never sees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.demo.data import training_scene
from pipeline.demo.scene import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT_SEEDS,
    OBJECTS,
    VOCABULARY,
    Scene,
    caption,
    caption_words,
    is_unseen,
    random_scene,
    unseen_scenes,
)

RED_MUG = Scene("mug", "red", "glossy", "striped", "table", seed=7)


def test_caption_says_what_is_there() -> None:
    """A caption names every attribute and the place, in plain English."""
    assert caption(RED_MUG) == "a photo of a red glossy striped mug on a wooden table"
    assert caption(RED_MUG.edited(colour="orange")).startswith("a photo of an orange")
    assert caption(RED_MUG, material=False, pattern=False) == "a photo of a red mug on a wooden table"


@given(st.integers(0, 2**40))
def test_a_seed_stands_for_one_scene(seed: int) -> None:
    """The same seed draws the same scene, and the scene remembers it."""
    assert random_scene(seed) == random_scene(seed)
    assert random_scene(seed).seed == seed


@given(st.integers(0, 2**40), st.sampled_from(sorted(VOCABULARY)), st.data())
def test_an_edit_changes_what_it_names_and_nothing_else(seed: int, attribute: str, data: st.DataObject) -> None:
    """Editing one attribute keeps the seed and every other attribute."""
    scene, value = random_scene(seed), data.draw(st.sampled_from(VOCABULARY[attribute]))
    edited = scene.edited(**{attribute: value})
    assert getattr(edited, attribute) == value
    assert edited.edited(**{attribute: getattr(scene, attribute)}) == scene


@pytest.mark.parametrize("edit", [{"colour": "teal"}, {"size": "big"}, {"seed": "3"}])
def test_an_edit_outside_the_vocabulary_is_refused(edit: dict[str, str]) -> None:
    """An unknown attribute, an unknown word and another seed are refused with what was expected."""
    with pytest.raises(ValueError, match="expected"):
        RED_MUG.edited(**edit)


def test_every_word_of_a_caption_is_in_the_vocabulary() -> None:
    """The words that the tokenizer is made for are those that captions have."""
    words = caption_words()
    assert len(words) == len(set(words))
    assert {word for scene in unseen_scenes() for word in caption(scene).split()} <= set(words)


def test_unseen_scenes_cover_the_vocabulary() -> None:
    """The triples kept from training are about one in sixteen, distinct, and have every object, colour and place."""
    scenes = unseen_scenes()
    triples = {(s.object, s.colour, s.background) for s in scenes}
    assert len(scenes) == len(triples) == pytest.approx(len(OBJECTS) * len(COLOURS) * len(BACKGROUNDS) / 16, abs=1)
    assert all(map(is_unseen, scenes))
    for words, used in zip((OBJECTS, COLOURS, BACKGROUNDS), zip(*triples, strict=True), strict=True):
        assert set(used) == set(words)


def test_training_seeds_are_not_the_benchmarks() -> None:
    """Training draws its scenes above the bound below which the benchmark draws its own."""
    assert training_scene(0).seed == HELD_OUT_SEEDS
