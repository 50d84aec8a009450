"""What is doubtful about an edit that did not fail: said in its row, never hidden and never fatal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pipeline.stages.escalation import falls_short

_EMPTY: Final = 0.001  # share of the picture

FLAGS: Final = {
    "reconstruction_short": "the reconstruction falls short of the autoencoder's by more than the margin",
    "mask_empty": "the mask lets nothing change: the edit is the original",
    "prompt_truncated": "the prompt is longer than the model's text window, and its end was cut off",
}


def qa_flags(edit: Mapping[str, Any], margin: float, *, truncated: bool) -> list[str]:
    """The names in `FLAGS` that hold for a row of the edits table; `margin` is in dB."""
    holds = {
        "reconstruction_short": falls_short(edit["recon_psnr"], edit["vae_psnr"], margin),
        "mask_empty": edit["strength"] != 0 and edit["mask_coverage"] < _EMPTY,
        "prompt_truncated": truncated,
    }
    return [name for name in FLAGS if holds[name]]
