"""An output as a reader finds it, to compare two."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pipeline.io.layout import picture_uri
from pipeline.io.outcomes import current_failures
from pipeline.io.rows_read import current_rows
from pipeline.io.storage import join, list_files, read_bytes
from pipeline.keys import sha256_hex


@dataclass(frozen=True)
class Results:
    """What does not depend on when, where and how often a job ran.

    Attributes:
        edits: for each picture's place in the output its row's key and its own sha256.
        inversions: keys of artifacts.
        failures: how many there are of each image, edit and code.
        pictures: how many files there are.
    """

    edits: dict[str, tuple[str, str]]
    inversions: frozenset[str]
    failures: Counter[tuple[str, str | None, str]]
    pictures: int


def results(output: str | Path) -> Results:
    """Read an output; every row's picture is compared with what the row says of it."""
    folder = str(output)
    edits = {}
    for row in current_rows(folder, "edits", "sha256").to_pylist():
        place = picture_uri("", row["image_id"], row["edit_id"], row["strength"])
        picture = sha256_hex(read_bytes(join(folder, place)))
        assert picture == row["sha256"], f"{place}: not the picture that its row speaks of"
        assert place not in edits
        edits[place] = (row["edit_key"], picture)
    return Results(
        edits=edits,
        inversions=frozenset(current_rows(folder, "inversions")["inversion_key"].to_pylist()),
        failures=Counter((row["image_id"], row["edit_id"], row["code"]) for row in current_failures(folder)),
        pictures=len(list_files(join(folder, "images"), ".png")),
    )
