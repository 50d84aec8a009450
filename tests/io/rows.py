"""Valid rows of the result tables, for tests to vary."""

from __future__ import annotations

import datetime as dt
from typing import Any

from pipeline.keys import sha256_hex

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


def key_of(name: str) -> str:
    """The key of a test's row."""
    return sha256_hex(name.encode())


def inversion_row(name: str, **columns: Any) -> dict[str, Any]:
    """An inversion of the image `name`."""
    row = {
        "inversion_key": key_of(name),
        "image_id": name,
        "image_uri": f"/photos/{name}.png",
        "image_sha256": key_of(f"bytes of {name}"),
        "source_prompt": None,
        "model": "bundled",
        "model_fingerprint": "f" * 64,
        "method": "ddim",
        "settings": "{}",
        "artifact_version": 3,
        "width": 64,
        "height": 48,
        "frames": 1,
        "tensors": f"tensors of {name}".encode(),
        "tensor_index": "{}",
        "vae_psnr": 31.5,
        "recon_psnr": 31.25,
        "iterations": 120,
        "converged": None,
        "escalated": None,
        "seconds": 2.0,
        "relatent_version": "0.1.0",
        "created_at": NOON,
        "fence": None,
    }
    return {**row, **columns}


def edit_row(name: str, **columns: Any) -> dict[str, Any]:
    """An edit of the image `name`."""
    row = {
        "edit_key": key_of(f"edit of {name}"),
        "image_id": name,
        "edit_id": "blue",
        "strength": 1.0,
        "inversion_key": key_of(name),
        "image_uri": f"/out/images/{name}/blue/1.0.png",
        "prompt": "a blue mug",
        "negative_prompt": None,
        "source_prompt": None,
        "guidance_scale": 3.0,
        "hold_structure": 0.5,
        "hold_self_attention": 0.25,
        "hold_cross_attention": 0.0,
        "word_weights": '{"blue": 2.0}',
        "variation": 0.0,
        "seed": None,
        "width": 64,
        "height": 48,
        "sha256": key_of(f"output of {name}"),
        "background_psnr": 40.0,
        "mask_coverage": 0.25,
        "recon_psnr": 31.25,
        "vae_psnr": 31.5,
        "converged": None,
        "qa_flags": [],
        "seconds": 0.5,
        "created_at": NOON,
        "fence": None,
    }
    return {**row, **columns}


def failure_row(name: str, **columns: Any) -> dict[str, Any]:
    """A failure of the image `name` as a whole."""
    row = {
        "image_id": name,
        "edit_id": None,
        "strength": None,
        "stage": "fetch",
        "code": "image_missing",
        "message": "no such file or object",
        "retryable": True,
        "attempts": 1,
        "image_uri": f"/photos/{name}.png",
        "input_sha256": None,
        "created_at": NOON,
        "fence": None,
    }
    return {**row, **columns}
