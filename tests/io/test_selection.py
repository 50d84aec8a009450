from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import RowError
from pipeline.io.selection import edits_for
from pipeline.records import Edit, PromptRow


def _image(**columns: Any) -> dict[str, Any]:
    return {"image_id": "mug-1", "image_uri": "a.png", **columns}


def _prompt(**columns: Any) -> PromptRow:
    return PromptRow(**{"edit_id": "e", "prompt": "a mug", **columns})


def _prompts_of(image: dict[str, Any], *prompts: PromptRow) -> list[str]:
    return [edit.prompt for edit in edits_for(image, prompts)]


def test_one_edit_per_strength() -> None:
    """A sweep makes one edit per strength, in the order given, with all that the row says."""
    prompt = _prompt(
        strength=(0, 0.5, 1.25), negative_prompt="blur", guidance_scale=2.0, hold_structure=0.25, seed=7, variation=0.5
    )
    edits = edits_for(_image(), [prompt, _prompt(edit_id="f")])
    assert edits[:3] == [Edit("e", "a mug", s, "blur", 2.0, 0.25, 7, variation=0.5) for s in (0.0, 0.5, 1.25)]
    assert edits[3:] == [Edit("f", "a mug", 1.0)]


def test_several_changes_make_one_edit() -> None:
    """Columns are filled in each, their strengths stay their own, and the text says them all."""
    prompt = PromptRow.model_validate(
        {"edit_id": "e", "strength": [0.5, 1], "edits": [{"prompt": "a {colour} mug"}, {"prompt": "x", "strength": -1}]}
    )
    deltas = (("a blue mug", 1.0), ("x", -1.0))
    assert edits_for(_image(colour="blue"), [prompt]) == [
        Edit("e", "1 × a blue mug + -1 × x", strength, deltas=deltas) for strength in (0.5, 1.0)
    ]


def test_an_edit_has_its_rows_attention_controls() -> None:
    """Shares and weights reach every strength's edit."""
    controls: dict[str, Any] = {
        "hold_self_attention": 0.5,
        "hold_cross_attention": 0.25,
        "word_weights": {"mug": 2.0},
    }
    assert edits_for(_image(), [_prompt(**controls)]) == [Edit("e", "a mug", 1.0, **controls)]


def test_a_weighted_word_may_come_from_a_column() -> None:
    """A row whose filled-in prompt lacks it is refused."""
    prompt = _prompt(prompt="a {colour} mug", word_weights={"blue": 2.0})
    assert edits_for(_image(colour="blue"), [prompt])[0].word_weights == {"blue": 2.0}
    with pytest.raises(RowError, match="word_weights: expected words of 'a red mug'; got 'blue'"):
        edits_for(_image(colour="red"), [prompt])


def test_the_two_zeros_are_one_strength() -> None:
    """Minus zero would have another key and file name than zero."""
    assert math.copysign(1, edits_for(_image(), [_prompt(strength=-0.0)])[0].strength) == 1


def test_rows_for_one_image() -> None:
    """`image_id` limits a prompt row to that image."""
    assert _prompts_of(_image(), _prompt(image_id="mug-2"), _prompt(prompt="x", image_id="mug-1")) == ["x"]


@pytest.mark.parametrize(
    ("where", "applies"),
    [
        ({"category": "mug"}, True),
        ({"category": ["vase", "mug"]}, True),
        ({"category": ["vase", "bowl"]}, False),
        ({"category": "mug", "colour": "blue"}, False),
        ({"category": "mug", "colour": "red"}, True),
        ({"number": 10}, True),
        ({"number": "10"}, True),
        ({"typed": "10"}, True),
        ({"typed": 10.0}, True),
        ({"typed": 11}, False),
        ({"flag": True}, True),
        ({"flag": False}, False),
        ({"empty": None}, True),
        ({"category": None}, False),
        ({"empty": "None"}, False),
        ({"image_id": ["mug-1", "mug-2"]}, True),
        ({}, True),
    ],
)
def test_conditions_on_columns(where: dict[str, Any], applies: bool) -> None:
    """All conditions must hold, each for one of its values; text and typed values compare as they read."""
    image = _image(category="mug", colour="red", number="10", typed=10, flag="true", empty=None)
    assert bool(edits_for(image, [_prompt(where=where)])) is applies


def test_columns_are_filled_in() -> None:
    """Any column of the image row can be named, ours and the user's; doubled braces are braces."""
    image = _image(source_prompt="a red mug", colour="red", **{"Paint Job": 3, "flag": True})
    prompt = _prompt(prompt="{source_prompt}, {colour}/{Paint Job}/{flag} {{colour}} {image_id}")
    assert _prompts_of(image, prompt) == ["a red mug, red/3/true {colour} mug-1"]


@given(st.text(min_size=1).filter(str.strip))
def test_values_are_not_templates(value: str) -> None:
    """Braces in a column's value are text, whatever they say."""
    assert _prompts_of(_image(colour=value), _prompt(prompt="x{colour}")) == [f"x{value}"]


def test_an_empty_column_costs_the_edit() -> None:
    """A prompt that names a column which is null in this row is refused, with both named."""
    with pytest.raises(RowError, match="'e': column 'colour' is empty") as raised:
        edits_for(_image(colour=None), [_prompt(prompt="a {colour} mug")])
    assert raised.value.code == "row_refused"


def test_a_prompt_that_fills_to_nothing_costs_the_edit() -> None:
    """A column of blanks alone makes no prompt."""
    with pytest.raises(RowError, match="empty once"):
        edits_for(_image(caption=" "), [_prompt(prompt="{caption}")])


def test_prompts_that_do_not_apply_are_not_filled() -> None:
    """An empty column matters only to the prompts that apply."""
    assert edits_for(_image(colour=None), [_prompt(prompt="a {colour} mug", where={"image_id": "other"})]) == []
