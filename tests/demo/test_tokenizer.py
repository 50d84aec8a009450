"""The bundled model's tokenizer: a real CLIP tokenizer over the catalogue's words."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from pipeline.demo.scene import caption, caption_words, random_scene
from pipeline.models.catalogue import MAX_TOKENS, new_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    """The tokenizer that training makes."""
    return new_tokenizer(caption_words())


@pytest.mark.parametrize("word", caption_words())
def test_every_catalogue_word_is_one_token(tokenizer: CLIPTokenizer, word: str) -> None:
    """A word of the catalogue is one token between start and end, so that captions align by position."""
    start, *ids, end = tokenizer(word).input_ids
    assert (start, end) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert len(ids) == 1


def test_captions_align_by_position(tokenizer: CLIPTokenizer) -> None:
    """A caption has as many tokens as words: two captions that differ in one word differ in one token."""
    for scene in map(random_scene, range(32)):
        text = caption(scene)
        assert len(tokenizer(text).input_ids) == len(text.split()) + 2
        assert len(tokenizer(text).input_ids) <= MAX_TOKENS


@pytest.mark.parametrize("text", ["cérulean teapot", "日本 🦊", "zzz quokka", "ωmega"])
def test_unknown_text_comes_back_from_its_bytes(tokenizer: CLIPTokenizer, text: str) -> None:
    """Text outside the catalogue, in any script, is spelt in bytes and read back."""
    ids = tokenizer(text).input_ids
    assert max(ids) < len(tokenizer)
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_a_saved_tokenizer_is_the_same(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    """Saved and loaded again, it has the same vocabulary, window and padding, and gives the same tokens."""
    tokenizer.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.model_max_length == tokenizer.model_max_length == MAX_TOKENS
    assert loaded.pad_token_id == tokenizer.pad_token_id
    for text in (*caption_words(), "an unknown zebra", ""):
        assert loaded(text).input_ids == tokenizer(text).input_ids
