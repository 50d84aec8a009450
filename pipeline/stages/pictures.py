"""Pictures of one image's edits: composited at full size, encoded, written, and their rows of the edits table."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.composite import composite
from pipeline.config import JobConfig
from pipeline.io.arrays import unpack_arrays
from pipeline.io.images import decode, encode_png, resize
from pipeline.io.layout import picture_uri
from pipeline.io.lease import Fence
from pipeline.keys import sha256_hex
from pipeline.pixels import Pixels, as_levels
from pipeline.stages.flags import qa_flags
from pipeline.stages.rows import Made, Order
from pipeline.stages.scoring import scored


class Pictures:
    """The edits that an engine made of one image.

    Args:
        row: the engine's, with pictures.
        config: of the job.
        model_fingerprint: which each picture names.
        fence: the right to write there.

    Attributes:
        missing_scores: why scores of what was written are missing that weights are named for: "clip" and so on → why.
    """

    def __init__(self, row: Made, config: JobConfig, model_fingerprint: str, fence: Fence) -> None:
        assert row["pictures"] is not None
        assert row["inversion"] is not None
        self._row, self._config, self._fingerprint, self._fence = row, config, model_fingerprint, fence
        self._made = unpack_arrays(row["pictures"])
        self._photo = None if row["original"] is None else decode(row["original"], config.max_pixels)
        self._inversion: dict[str, Any] = json.loads(row["inversion"])
        self._truncated: list[bool] = json.loads(row["truncated"])
        self.missing_scores: dict[str, str] = {}

    def write(self, i: int, order: Order) -> dict[str, Any]:
        """Write the picture of edit `i`, which is `order` → its row, with what is doubtful about it."""
        edit, mask = order.edit, self._made["mask"][i]
        controls = self._config.edit.controls(edit)
        pixels, alpha, background_psnr = self._composited(i, keeps_shape=controls.hold_structure > 0)
        data = encode_png(pixels, alpha, self._provenance(order))
        uri = picture_uri(self._fence.output, self._row["image_id"], edit.edit_id, edit.strength)
        self._fence.write(uri, data)
        fitted = json.loads(self._inversion["settings"])["guidance_scale"]
        row = {
            "edit_key": order.key,
            "image_id": self._row["image_id"],
            "edit_id": edit.edit_id,
            "strength": edit.strength,
            "inversion_key": self._row["inversion_key"],
            "image_uri": uri,
            "prompt": edit.prompt,
            "negative_prompt": edit.negative_prompt,
            "source_prompt": self._row["source_prompt"],
            "guidance_scale": fitted if edit.guidance_scale is None else edit.guidance_scale,
            "hold_structure": controls.hold_structure,
            "hold_self_attention": controls.hold_self_attention,
            "hold_cross_attention": controls.hold_cross_attention,
            "word_weights": json.dumps(controls.word_weights, ensure_ascii=False),
            "variation": controls.variation,
            "seed": order.seed,
            "width": pixels.shape[1],
            "height": pixels.shape[0],
            "sha256": sha256_hex(data),
            "background_psnr": background_psnr,
            "mask_coverage": float(mask.mean(dtype=np.float64)),
            "recon_psnr": self._inversion["recon_psnr"],
            "vae_psnr": self._inversion["vae_psnr"],
            "converged": self._inversion["converged"],
            "escalated": self._inversion["escalated"],
            **self._scores(pixels, edit.prompt),
            "seconds": self._row["seconds"],
            "carried": self._row.get("carried"),
        }
        kind = self._config.edit.of(edit.settings).mask
        return row | {"qa_flags": qa_flags(row, self._config.qa_margin, kind, truncated=self._truncated[i])}

    def _composited(self, i: int, *, keeps_shape: bool) -> tuple[Pixels, Pixels | None, float | None]:
        """The picture, its transparency, and how far it is from the original outside the mask, in dB."""
        edited, mask, reconstruction = self._made["edited"][i], self._made["mask"][i], self._made["reconstruction"]
        if self._photo is None:
            return as_levels(edited), None, None
        original = self._photo.pixels
        if self._config.edit.composite == "none":
            pixels = as_levels(edited)
            height, width = pixels.shape[:2]
            return pixels, None, _background_psnr(resize(original, (width, height)), pixels, mask)
        pixels = composite(original, edited, reconstruction, mask, keeps_shape=keeps_shape)
        return pixels, self._photo.alpha, _background_psnr(original, pixels, mask)

    def _scores(self, pixels: Pixels, prompt: str) -> dict[str, float | None]:
        original = None if self._photo is None else self._photo.pixels
        scores, missing = scored(self._config.scores, pixels, prompt, original)
        self.missing_scores = missing | self.missing_scores
        return scores

    def _provenance(self, order: Order) -> dict[str, str]:
        edit = order.edit
        said = {
            "model": self._row["model"],
            "model_fingerprint": self._fingerprint,
            "prompt": edit.prompt,
            "strength": repr(edit.strength),
            "edit_key": order.key,
            "image_sha256": self._row["image_sha256"],
        }
        return said | ({"edits": json.dumps(edit.deltas)} if edit.deltas else {})


def _background_psnr(original: Pixels, published: Pixels, mask: NDArray[np.float16]) -> float | None:
    """PSNR in dB outside the mask; 100 where nothing changed, None where the mask leaves no outside."""
    height, width = original.shape[:2]
    outside = resize(as_levels(mask), (width, height)) < 128
    if not outside.any():
        return None
    difference = np.subtract(original, published, dtype=np.int16)
    squares = np.einsum("hwc,hwc->hw", difference, difference, dtype=np.int32)
    return float(-10 * np.log10(max(squares[outside].mean(dtype=np.float64) / (3 * 255**2), 1e-10)))
