"""Content keys: sha256 of canonical JSON over everything that changes a result, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

# Part of every inversion key, and a column beside it. Raised when the stored tensors' meaning changes, so that an old
# artifact is never taken for a new one.
ARTIFACT_VERSION: Final = 4
# Part of every edit key. Raised when the same request comes to mean other pixels.
EDIT_VERSION: Final = 4
_CANONICAL: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_hex(data: bytes) -> str:
    """Hexadecimal sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; equal values give equal text.

    Raises:
        ValueError: the value holds NaN or an infinity, which JSON has no word for.
    """
    return _CANONICAL.encode(value)


def content_key(value: Mapping[str, Any]) -> str:
    """sha256 of a mapping's canonical JSON."""
    return sha256_hex(canonical_json(dict(value)).encode())


class ContentKeys:
    """Content keys of mappings that differ in a few values only; the others are made into JSON once.

    Args:
        like: one of the mappings.
        varying: names of the values that differ.
    """

    def __init__(self, like: Mapping[str, Any], varying: Sequence[str]) -> None:
        self._order = sorted(varying)
        self._texts = [""]
        for name in sorted(like):
            self._texts[-1] += f"{',' if name != min(like) else '{'}{canonical_json(name)}:"
            if name in varying:
                self._texts.append("")
            else:
                self._texts[-1] += canonical_json(like[name])
        self._texts[-1] += "}"

    def of(self, **values: Any) -> str:
        """`content_key` of the mapping with these values in it, one for each name that varies."""
        parts = [text + canonical_json(values[name]) for text, name in zip(self._texts[:-1], self._order, strict=True)]
        return sha256_hex("".join([*parts, self._texts[-1]]).encode())


def inversion_identity(
    *,
    image_sha256: str,
    source_prompt: str,
    model_fingerprint: str,
    settings: Mapping[str, Any],
    escalation: Mapping[str, Any] | None,
    max_side: int,
    dtype: str | None,
) -> dict[str, Any]:
    """What an inversion's content key is of: the image's bytes, source prompt, model, precision and all settings.

    Two image ids with the same bytes share one inversion. `escalation` says when other settings are tried, and which;
    `max_side` bounds the working size.
    """
    return {
        "kind": "inversion",
        "artifact_version": ARTIFACT_VERSION,
        "image_sha256": image_sha256,
        "source_prompt": source_prompt,
        "model": model_fingerprint,
        "settings": dict(settings),
        "escalation": None if escalation is None else dict(escalation),
        "max_side": max_side,
        "dtype": dtype,
    }


def artifact_row_key(inversion_key: str, image_id: str) -> str:
    """Identity of a row of the artifact table: two image ids with the same bytes have a row each."""
    return content_key({"kind": "artifact row", "inversion_key": inversion_key, "image_id": image_id})


def edit_identity(
    *,
    inversion_key: str,
    image_id: str,
    edit_id: str,
    prompt: str | Sequence[tuple[str, float]],
    negative_prompt: str,
    strength: float,
    guidance_scale: float | None,
    hold_structure: float,
    hold_self_attention: float,
    hold_cross_attention: float,
    word_weights: Mapping[str, float],
    variation: float,
    seed: int | None,
    mask_sha256: str | None,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """What an edit's content key is of: the inversion, the ids it is published under, and all that steers the edit.

    `prompt` is one text, or several that are asked for at once, each with its strength. `guidance_scale` is None where
    it is that of the inversion, `seed` where it changes nothing or follows from the key.
    """
    return {
        "kind": "edit",
        "edit_version": EDIT_VERSION,
        "inversion": inversion_key,
        "image_id": image_id,
        "edit_id": edit_id,
        "prompt": prompt if isinstance(prompt, str) else [[text, float(share)] for text, share in prompt],
        "negative_prompt": negative_prompt,
        "strength": float(strength),
        "guidance_scale": None if guidance_scale is None else float(guidance_scale),
        "hold_structure": float(hold_structure),
        "hold_self_attention": float(hold_self_attention),
        "hold_cross_attention": float(hold_cross_attention),
        "word_weights": {word: float(weight) for word, weight in word_weights.items()},
        "variation": float(variation),
        "seed": seed,
        "mask_sha256": mask_sha256,
        "settings": dict(settings),
    }


def seed_of(key: str) -> int:
    """A 63-bit seed for an explicit generator, from a content key."""
    return int(key[:16], 16) >> 1
