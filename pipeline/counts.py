"""What came of rows."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Counts:
    """How many images and edits came out how; adds up over rows. `escalated` ones are among those inverted.

    `missing_scores` has, by score, the first reason why one that weights are named for is missing.
    """

    inverted: int = 0
    escalated: int = 0
    reused: int = 0
    images_failed: int = 0
    edited: int = 0
    kept: int = 0
    edits_failed: int = 0
    codes: dict[str, int] = field(default_factory=dict)
    missing_scores: dict[str, str] = field(default_factory=dict)

    def __add__(self, other: Counts) -> Counts:
        codes = dict(Counter(self.codes) + Counter(other.codes))
        missing = other.missing_scores | self.missing_scores
        names = [f.name for f in dataclasses.fields(self) if f.name not in {"codes", "missing_scores"}]
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        return Counts(**sums, codes=codes, missing_scores=missing)

    @property
    def images(self) -> int:
        """Images that are accounted for."""
        return self.inverted + self.reused + self.images_failed

    @property
    def edits(self) -> int:
        """Edits that are accounted for."""
        return self.edited + self.kept + self.edits_failed

    @property
    def failures(self) -> int:
        """Rows that failed, each once, however many edits an image's failure costs."""
        return sum(self.codes.values())
