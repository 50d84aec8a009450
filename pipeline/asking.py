"""Which edits are asked for of which image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from pipeline.errors import RowError
from pipeline.io.manifest import applies, columns_named, edits_for
from pipeline.io.selection import filled_in
from pipeline.records import Edit, PromptRow

_PART_ROWS: Final = 1 << 14


class Asking:
    """The prompts of a job, found by image: with one prompt per image, nobody looks at all of them each time."""

    def __init__(self, prompts: Iterable[PromptRow] = ()) -> None:
        self._by_image: dict[str | None, list[PromptRow]] = defaultdict(list)
        for prompt in prompts:
            self._by_image[prompt.image_id].append(prompt)

    def of(self, columns: Mapping[str, Any]) -> tuple[list[Edit], list[tuple[Edit, RowError]]]:
        """The edits of the image with these columns, and those whose prompt cannot be filled in."""
        edits: list[Edit] = []
        refused: list[tuple[Edit, RowError]] = []
        for prompt in self._about(columns["image_id"]):
            try:
                edits += edits_for(columns, [prompt])
            except RowError as error:
                refused += [(Edit(prompt.edit_id, prompt.text, strength), error) for strength in prompt.strengths]
        return edits, refused

    def count(self, columns: Mapping[str, Any]) -> int:
        """How many edits the image with these columns gets, those that cannot be filled in among them."""
        return sum(len(prompt.strengths) for prompt in self._applying(columns))

    def there(self, columns: Mapping[str, Any], committed: Mapping[tuple[str, float], str]) -> int:
        """How many of them are committed with the prompt that is asked for now; columns that it names are given, too.

        `committed` has the prompt of each edit id and strength.
        """
        return sum(
            committed.get((prompt.edit_id, strength)) == _text(prompt, columns)
            for prompt in self._applying(columns)
            for strength in prompt.strengths
            if (prompt.edit_id, strength) in committed
        )

    def places(self, columns: Mapping[str, Any]) -> list[tuple[str, float]]:
        """Edit id and strength of each, those that cannot be filled in among them."""
        return [(prompt.edit_id, strength) for prompt in self._applying(columns) for strength in prompt.strengths]

    def _applying(self, columns: Mapping[str, Any]) -> list[PromptRow]:
        return [prompt for prompt in self._about(columns["image_id"]) if applies(prompt, columns)]

    def _about(self, image_id: str) -> list[PromptRow]:
        return [*self._by_image.get(None, ()), *self._by_image.get(image_id, ())]


def _text(prompt: PromptRow, columns: Mapping[str, Any]) -> str | None:
    try:
        return filled_in(prompt, columns)[0]
    except RowError:
        return None


def count_edits(images: Any, prompts: Sequence[PromptRow]) -> int:
    """How many edits are asked for, those that a row's empty columns will refuse among them."""
    everywhere = [row for row in prompts if row.image_id is None and row.where is None]
    elsewhere = [row for row in prompts if row.image_id is not None or row.where is not None]
    count = len(images) * sum(len(row.strengths) for row in everywhere)
    if elsewhere:
        count += sum(map(Asking(elsewhere).count, deciding(images, elsewhere)))
    return count


def deciding(images: Any, prompts: Iterable[PromptRow]) -> Iterator[dict[str, Any]]:
    """The columns of each image that decide which prompts apply to it, and what they say."""
    named = {name for row in prompts for delta in row.deltas for name in columns_named(delta.prompt)}
    columns = {"image_id", *named, *(name for row in prompts for name in row.where or {})}
    for part in images.select(list(columns)).to_batches(max_chunksize=_PART_ROWS):
        yield from part.to_pylist()
