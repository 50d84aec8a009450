"""One image on its way through the first stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.records import Edit, Failure
from pipeline.stages.rows import NOTHING, Asked, FailedRow, Fetched, Order, Payloads, dump, image_columns
from pipeline.stages.source import Source


@dataclass(slots=True)
class Visit:
    """One image on its way through the stage, and what has been found out about it."""

    row: Asked
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
        image_uri, mask_uri = row["image_uri"], row["mask_uri"]
        original = Source(image_uri, "image", max_pixels, recalled.get(image_uri))
        mask = Source(mask_uri, "mask", max_pixels, recalled.get(mask_uri)) if mask_uri else None
        return cls(row, original, mask)

    @property
    def image_id(self) -> str:
        return self.row["image_id"]

    @property
    def columns(self) -> dict[str, Any]:
        """What prompts may speak of: the user's own columns, and the manifest's."""
        return {**self.row.get("carried", {}), **image_columns(self.row)}

    def fail(self, error: Exception, edit: Edit | None = None, tried: str | None = None, edits: int = 1) -> None:
        failure = Failure.of(error, self.image_id, edit)
        self.failures.append(FailedRow(failure, self.row["image_uri"], tried, edits))

    def result(
        self,
        status: Literal["work", "done", "failed"],
        orders: Sequence[Order] = (),
        kept: int = 0,
        payloads: Payloads = NOTHING,
        *,
        named: bool = False,
        reused: int | None = None,
    ) -> Fetched:
        return Fetched(
            **image_columns(self.row),
            status=status,
            image_sha256=self.image_sha256,
            inversion_key=self.inversion_key,
            **payloads,
            named=named,
            orders=dump(orders),
            reused=int(status == "done") if reused is None else reused,
            kept=kept,
            failures=dump(self.failures),
            seen=dump([seen for source in (self.original, self.mask) if source for seen in source.seen]),
        )
