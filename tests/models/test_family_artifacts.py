"""Of every family: rows of a batch are fitted as alone, and what artifacts keep of them gives their edits again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from pipeline.diffusion.factors import delta_at
from pipeline.editor import Editor
from pipeline.inversion import Inversion
from pipeline.models.assembly import load_backbone
from pipeline.settings import FITTED, EditSettings, InversionSettings
from pipeline.synthesis import EditRequest, Synthesis
from tests.model_folders import FOLDERS, save_sdxl

SOURCES = ["a photo of a red mug on a wooden table", "a green vase"]
TARGET = "a photo of a blue striped mug on a lawn"
STEPS = 3
BARE = EditSettings(mask="none", composite="none", hold_structure=0.5)


@pytest.fixture(scope="module")
def editor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Editor:
    """An editor with a small, untrained model of a family, or with the bundled one."""
    if request.param == "bundled":
        return Editor.from_pretrained(device="cpu")
    return Editor(load_backbone(str(FOLDERS[request.param](tmp_path_factory.mktemp("family"))), "cpu"))


def _picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (32, 48, 3), dtype=np.uint8)


def _added(inversion: Inversion) -> Tensor:
    """What the fit added to the prompt's embedding (steps, tokens, width), as its artifact has it."""
    factors = {name: tensor[None] for name, tensor in inversion.tensors.items()}
    return torch.stack([delta_at(factors, step)[0] for step in range(STEPS)])


def _edits(editor: Editor, inversions: list[Inversion]) -> np.ndarray:
    results = editor.edit_rows(inversions, [EditRequest(i, TARGET) for i in range(len(inversions))], BARE)
    assert all(isinstance(result, Synthesis) for result in results)
    return np.stack([result.edited for result in results if isinstance(result, Synthesis)])


@pytest.mark.parametrize(
    ("editor", "method"), [*product(FOLDERS, FITTED), ("bundled", "prompt-tuning")], indirect=["editor"]
)
def test_fits_artifacts_and_edits_are_those_of_each_image_alone(editor: Editor, method: Any) -> None:
    """Together and alone the same is learned, and what is kept of each gives it back, together: the same edits."""
    settings = InversionSettings(method=method, num_inference_steps=STEPS, max_iterations=3, tolerance=0)
    pictures = [_picture(seed) for seed in range(2)]
    together = editor.invert(pictures, source_prompts=SOURCES, settings=settings)
    alone = [
        editor.invert([picture], source_prompts=[source], settings=settings)[0]
        for picture, source in zip(pictures, SOURCES, strict=True)
    ]
    for one, other in zip(together, alone, strict=True):
        learned = _added(other)
        assert float(learned.abs().max()) > 1e-3
        torch.testing.assert_close(_added(one), learned, rtol=0, atol=0.02 * float(learned.abs().max()))
        assert one.iterations == other.iterations
    again = editor.restore_rows([replace(inversion, tensors=inversion.kept) for inversion in alone])
    expected = _edits(editor, together)
    for found in (_edits(editor, again), np.concatenate([_edits(editor, [one]) for one in alone])):
        np.testing.assert_allclose(found, expected, atol=5e-3)
    for before, after in zip(alone, again, strict=True):
        for name, tensor in before.tensors.items():
            torch.testing.assert_close(after.tensors[name], tensor, rtol=1e-2, atol=1e-2)


@contextmanager
def _convolved() -> Iterator[set[torch.dtype]]:
    """The types in which convolutions run meanwhile."""
    seen = set[torch.dtype]()

    def note(module: nn.Module, values: tuple[Tensor, ...]) -> None:
        if isinstance(module, nn.Conv2d):
            seen.update((module.weight.dtype, values[0].dtype))

    handle = register_module_forward_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("upcast", [True, False])
def test_sdxls_autoencoder_runs_in_single_precision_where_it_says_so(tmp_path: Path, upcast: bool, dtype: str) -> None:
    """Beside a network in half precision: with `force_upcast`, as the base model has it, and not without."""
    config = save_sdxl(tmp_path) / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"force_upcast": upcast}))
    model, half = load_backbone(str(tmp_path), "cpu", dtype), getattr(torch, dtype)
    with _convolved() as seen:
        z = model.encode_images(torch.rand(1, 3, 32, 48))
        pixels = model.decode_latents(z)
    assert seen == {torch.float32 if upcast else half}
    assert bool(pixels.isfinite().all())
    with _convolved() as seen, torch.no_grad():
        model.predict(z, model.schedule(2).timesteps[1:], model.encode_prompts([TARGET]))
    assert half in seen
