from __future__ import annotations

from pipeline.planning import Asking
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
