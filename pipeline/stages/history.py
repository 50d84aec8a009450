"""What failed in earlier runs of the same output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.errors import RowError

_Slot = tuple[str, str | None, float | None]


class History:
    """The latest failure of each image and edit.

    Args:
        failures: rows of the failures table, at most one per image, edit and strength.
        insist: let none of them stand: what failed for good is tried again.
    """

    def __init__(self, failures: Iterable[Mapping[str, Any]] = (), *, insist: bool = False) -> None:
        self._insist = insist
        self._latest: dict[_Slot, Mapping[str, Any]] = {
            (row["image_id"], row["edit_id"], row["strength"]): row for row in failures
        }

        self._image_ids = {image_id for image_id, _, _ in self._latest}

    def mentions(self, image_id: str) -> bool:
        """Whether the image, or an edit of it, failed."""
        return image_id in self._image_ids

    def attempts(self, image_id: str, edit_id: str | None, strength: float | None) -> int:
        """How often this image or edit has failed so far."""
        row = self._latest.get((image_id, edit_id, strength))
        return int(row["attempts"]) if row else 0

    def failed(self, image_id: str, edit_id: str | None = None, strength: float | None = None) -> bool:
        """Whether the image or edit failed when it was last tried; an image is not tried by a row that is refused."""
        row = self._latest.get((image_id, edit_id, strength))
        return row is not None and not (edit_id is None and row["code"] == "row_refused")

    def standing(
        self, tried: str | None, image_id: str, edit_id: str | None = None, strength: float | None = None
    ) -> RowError | None:
        """The permanent failure that still holds because what is tried is what failed before."""
        row = self._latest.get((image_id, edit_id, strength))
        if self._insist or row is None or row["retryable"] or row["input_sha256"] != tried:
            return None
        return RowError(row["code"], row["message"])
