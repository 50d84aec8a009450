"""Learned scores of published pictures: how near to the prompt they are, and how far from the original."""

from __future__ import annotations

import math
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Final

from pipeline.config import ScoreWeights
from pipeline.errors import JobError, shown
from pipeline.io.images import resize
from pipeline.pixels import Pixels

if TYPE_CHECKING:
    from pipeline.perceptual import Perceptual

# Weights' name → the column of the edits table.
COLUMNS: Final = {"clip": "clip_similarity", "dino": "structure_distance", "lpips": "lpips"}
# CLIP and DINO look at some 224² pixels of a picture anyway; LPIPS, at all of a photograph's, would take gigabytes.
_MOST_PIXELS: Final = 1024 * 1024
_MOST_SAID: Final = 200
# Pictures are published by several threads, of which one would see another's keys in DINO's hook.
_LOCK: Final = Lock()


def scored(
    weights: ScoreWeights, picture: Pixels, prompt: str, original: Pixels | None
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Score a picture (h, w, 3) against its prompt and its original, which is resized where it has another size.

    Pictures of more than 1024² pixels are looked at in that size.

    Returns:
        The edits table's columns, None where there is no score; and why one that weights are named for is missing:
        "clip", "dino" or "lpips" → one line.
    """
    scores: dict[str, float | None] = dict.fromkeys(COLUMNS.values())
    missing: dict[str, str] = {}
    if not weights.named:
        return scores, missing
    seen = _bounded(picture)
    before = None if original is None else resize(original, (seen.shape[1], seen.shape[0]))
    with _LOCK:
        learned = _learned(weights)
        for name in weights.named:
            try:
                scores[COLUMNS[name]] = _score(learned, name, seen, prompt, before)
            except JobError as error:
                missing[name] = str(error)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with a score costs that score
                height, width = picture.shape[:2]
                missing[name] = shown(f"{name}: a picture of {width}×{height}: {error}")[:_MOST_SAID]
    return scores, missing


def _score(learned: Perceptual, name: str, seen: Pixels, prompt: str, before: Pixels | None) -> float:
    if name in learned.missing:
        raise JobError(learned.missing[name])
    if name == "clip":
        score = learned.clip_similarity(seen, prompt)
    elif before is None:
        raise JobError(f"{name}: with composite none, the originals of images with artifacts are not fetched")
    else:
        score = (learned.lpips if name == "lpips" else learned.structure_distance)(before, seen)
    if score is None or not math.isfinite(score):
        raise ValueError(f"expected a finite score; got {score}")
    return score


@lru_cache(maxsize=1)
def _learned(weights: ScoreWeights) -> Perceptual:
    from pipeline.perceptual import Perceptual  # and with it transformers, which nobody else here needs

    # GPUs belong to the engines.
    return Perceptual(weights, "cpu")


def _bounded(picture: Pixels) -> Pixels:
    height, width = picture.shape[:2]
    scale = math.sqrt(min(1.0, _MOST_PIXELS / (height * width)))
    return resize(picture, (max(1, round(width * scale)), max(1, round(height * scale))))
