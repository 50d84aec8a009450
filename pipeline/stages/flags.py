"""What is doubtful about an edit that did not fail: said in its row, never hidden and never fatal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pipeline.records import MaskKind
from pipeline.stages.escalation import falls_short

_EMPTY: Final = 0.001  # share of the picture

FLAGS: Final = {
    "reconstruction_short": "the reconstruction falls short of the autoencoder's by more than the margin",
    "mask_empty": "the mask lets nothing change: the edit is the original",
    "prompt_truncated": "the end of a prompt (target, source or negative) does not fit into the model's text window",
    "source_prompt_missing": "words were to be held or to find the mask, and no source prompt says which are new",
}


def qa_flags(edit: Mapping[str, Any], margin: float, mask: MaskKind, *, truncated: bool) -> list[str]:
    """The names in `FLAGS` that hold for a row of the edits table; `margin` is in dB, `mask` the kind asked for."""
    by_words = mask in ("attention", "both") or bool(edit["hold_cross_attention"])
    holds = {
        "reconstruction_short": falls_short(edit["recon_psnr"], edit["vae_psnr"], margin),
        "mask_empty": edit["strength"] != 0
        and edit["mask_coverage"] < _EMPTY
        and edit["prompt"] != edit["source_prompt"],
        "prompt_truncated": truncated,
        "source_prompt_missing": by_words and not edit["source_prompt"],
    }
    return [name for name in FLAGS if holds[name]]
