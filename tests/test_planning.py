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
