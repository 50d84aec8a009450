from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import EditSettings, JobConfig
from pipeline.errors import JobError
from pipeline.planning import Asking, read_plan
from pipeline.records import ImageRow, PromptRow


def test_edits_are_counted_as_they_are_asked() -> None:
    """The count of a plan is that of the edits, with those that an empty column will refuse."""
    asking = Asking(
        [
            PromptRow(edit_id="all", prompt="a photo", strength=(0, 1)),
            PromptRow(edit_id="one", prompt="a photo", image_id="a"),
            PromptRow(edit_id="mugs", prompt="a photo", where={"thing": ["mug", "vase"]}),
            PromptRow(edit_id="filled", prompt="a photo of a {thing}", strength=(0.5, 1)),
        ]
    )
    for columns, count in (
        ({"image_id": "a", "thing": "mug"}, 6),
        ({"image_id": "b", "thing": "bowl"}, 4),
        ({"image_id": "c", "thing": None}, 4),
    ):
        edits, refused = asking.of(ImageRow(image_uri="x.png", **columns))
        assert asking.count(columns) == len(edits) + len(refused) == count


def test_edits_are_there_with_the_prompt_that_is_asked_for() -> None:
    """An edit whose text changed since is to be made again, as is one that cannot be filled in."""
    asking = Asking(
        [
            PromptRow(edit_id="plain", prompt="a photo", strength=(0, 1)),
            PromptRow(edit_id="filled", prompt="a {thing}"),
            PromptRow.model_validate({"edit_id": "both", "edits": [{"prompt": "x"}, {"prompt": "y", "strength": 0.5}]}),
        ]
    )
    committed = {("plain", 1.0): "a photo", ("filled", 1.0): "a mug", ("both", 1.0): "1 × x + 0.5 × y"}
    for changed, columns, count in (
        ({}, {"thing": "mug"}, 3),
        ({}, {"thing": "vase"}, 2),
        ({}, {"thing": None}, 2),
        ({("plain", 1.0): "another photo"}, {"thing": "mug"}, 2),
        ({("plain", 0.0): "a photo"}, {"thing": "mug"}, 4),
    ):
        assert asking.there({"image_id": "a", **columns}, committed | changed) == count


def test_a_word_that_the_job_weighs_and_no_prompt_has_is_refused(tmp_path: Path) -> None:
    """One prompt that has it is enough, and a column may bring it."""
    images, prompts = tmp_path / "images.csv", tmp_path / "prompts.jsonl"
    images.write_text("image_id,image_uri,colour\na,a.png,blue\n")
    config = JobConfig(
        images=str(images),
        prompts=str(prompts),
        output=str(tmp_path / "out"),
        edit=EditSettings(word_weights={"blue": 2.0}),
    )
    red, template = (f'{{"edit_id": "{text[0]}", "prompt": "{text} mug"}}\n' for text in ("red", "{colour}"))
    for fitting in (red + red.replace("red", "Blue").replace('"r"', '"b"'), template):
        prompts.write_text(fitting)
        assert read_plan("run", config).refusals == ()
    prompts.write_text(red)
    with pytest.raises(JobError, match=r"edit\.word_weights: expected words of the prompts; no prompt has 'blue'"):
        read_plan("run", config)
