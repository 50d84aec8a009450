"""One image on its way through the first stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline.records import Edit, Failure, ImageRow
from pipeline.stages.rows import NOTHING, Asked, FailedRow, Fetched, Order, Payloads, dump, image_columns
from pipeline.stages.source import Source


@dataclass(slots=True)
class Visit:
    """One image on its way through the stage, and what has been found out about it."""

    row: Asked
    image: ImageRow
    original: Source
    mask: Source | None
    asked: list[Edit] = field(default_factory=list)
    failures: list[FailedRow] = field(default_factory=list)
    image_sha256: str = ""
    inversion_key: str = ""
    tried: str | None = None  # identity of what the current step was given

    @classmethod
    def to(cls, row: Asked, max_pixels: int, recalled: Mapping[str, str]) -> Visit:
        """Begin with a row of the plan; `recalled` has the sha256 of files that are known to be unchanged."""
        image = _image(row)
        original = Source(image.image_uri, "image", max_pixels, recalled.get(image.image_uri))
        mask = Source(image.mask_uri, "mask", max_pixels, recalled.get(image.mask_uri)) if image.mask_uri else None
        return cls(row, image, original, mask)

    def fail(self, error: Exception, edit: Edit | None = None, tried: str | None = None, edits: int = 1) -> None:
        failure = Failure.of(error, self.image.image_id, edit)
        self.failures.append(FailedRow(failure, self.image.image_uri, tried, edits))

    def result(
        self,
        status: Literal["work", "done", "failed"],
        orders: Sequence[Order] = (),
        kept: int = 0,
        payloads: Payloads = NOTHING,
        *,
        named: bool = False,
    ) -> Fetched:
        return Fetched(
            **image_columns(self.row),
            status=status,
            image_sha256=self.image_sha256,
            inversion_key=self.inversion_key,
            **payloads,
            named=named,
            orders=dump(orders),
            reused=int(status == "done"),
            kept=kept,
            failures=dump(self.failures),
            seen=dump([seen for source in (self.original, self.mask) if source for seen in source.seen]),
        )


def _image(row: Asked) -> ImageRow:
    return ImageRow(
        image_id=row["image_id"],
        image_uri=row["image_uri"],
        source_prompt=row["source_prompt"],
        mask_uri=row["mask_uri"],
        **row.get("carried", {}),
    )
