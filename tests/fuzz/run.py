"""Which file has which number, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Final

import numpy as np

from pipeline.errors import CODES
from tests.fuzz import images, manifests
from tests.fuzz.harness import Outcome, outcomes
from tests.fuzz.mutations import mutated
from tests.fuzz.seeds import seeds

FORMATS: Final = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PARQUET")


def fuzz(files: int, seed: int, limit_s: float, limit_mb: int) -> Iterator[tuple[str, Outcome]]:
    """Format and outcome of the first `files` mutated files of a seed."""
    marked = (bytes([index % len(FORMATS)]) + file_of(seed, index) for index in range(files))
    for index, result in enumerate(outcomes(_outcome, marked, limit_s, limit_mb)):
        yield format_of(index), result


def format_of(index: int) -> str:
    """The format that a mutated file was whole in: each takes its turn."""
    return FORMATS[index % len(FORMATS)]


def file_of(seed: int, index: int) -> bytes:
    """One mutated file: the same for the same numbers."""
    others = [data for files in _whole().values() for data in files]
    return mutated(_whole()[format_of(index)], others, np.random.default_rng([seed, index]))


def is_finding(result: Outcome) -> bool:
    """Whether a file came to anything but a photograph, a table, or a refusal as it should be."""
    return result.result not in {"decoded", "refused", *CODES}


@cache
def _whole() -> dict[str, tuple[bytes, ...]]:
    return {**seeds(), "PARQUET": tuple(manifests.parquet_seeds())}


def _outcome(marked: bytes) -> str:
    """What the reader of a file's format makes of it; the first byte says which format."""
    target = manifests.outcome if marked[:1] == bytes([FORMATS.index("PARQUET")]) else images.outcome
    return target(marked[1:])
