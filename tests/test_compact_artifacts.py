"""What a compact artifact of the bundled model gives back, beside a full one (infra/decisions/0014)."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.demo.render import render
from pipeline.demo.scene import caption, random_scene
from pipeline.diffusion import factors
from pipeline.diffusion.pixels import as_pixels
from pipeline.editor import Editor
from pipeline.inversion import Inversion
from pipeline.quality.metrics import psnr
from pipeline.settings import FITTED, EditSettings, InversionSettings
from pipeline.synthesis import EditRequest, Synthesis

# Twice as many steps as directions are kept, so that some of what was learned is left out.
FEW: dict[str, Any] = {"num_inference_steps": 16, "max_iterations": 2}
WORTH = 0.2  # dB of reconstruction that a compact artifact may cost


@pytest.fixture(scope="module")
def editor() -> Editor:
    """An editor with the bundled model."""
    return Editor.from_pretrained(device="cpu")


@pytest.mark.parametrize(("method", "room"), [*product(FITTED, [200_000]), ("prompt-tuning", 0)])
def test_a_compact_artifact_reconstructs_as_a_full_one(
    editor: Editor, method: Any, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 0.2 dB on every scene, also where there is no room for eight bits; without what it keeps it would not."""
    monkeypatch.setattr(factors, "_BYTES", room)
    scenes = [random_scene(seed) for seed in range(2)]
    pictures = as_pixels(render(scenes, 64).images)
    whole, compact = (
        editor.invert(
            pictures,
            source_prompts=[caption(scene) for scene in scenes],
            settings=InversionSettings(method=method, artifact=level, **FEW),
        )
        for level in ("full", "compact")
    )
    kept = [replace(inversion, tensors=inversion.kept) for inversion in compact]
    without = [replace(k, tensors=k.tensors | {"weights": torch.zeros_like(k.tensors["weights"])}) for k in kept]
    again = editor.restore_rows([*kept, *without])
    n = len(scenes)
    reached = [_reconstructions(editor, found, pictures) for found in (whole, again[:n], again[n:])]
    assert np.abs(reached[0] - reached[1]).max() <= WORTH
    assert (reached[0] - reached[2]).max() > 2 * WORTH


def _reconstructions(editor: Editor, inversions: list[Inversion], pictures: list[np.ndarray]) -> np.ndarray:
    """What each inversion is an inversion of, in dB against its picture."""
    requests = [EditRequest(i, "", strength=0.0) for i in range(len(inversions))]
    results = editor.edit_rows(inversions, requests, EditSettings())
    made = [result.reconstruction for result in results if isinstance(result, Synthesis)]
    return np.array([psnr(one, picture / 255) for one, picture in zip(made, pictures, strict=True)])
