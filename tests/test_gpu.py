"""On a GPU: the engine as it is on a CPU, in the GPU's precision, compiled, and short of memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar

import numpy as np
import pytest
import torch

from pipeline.config import PRESETS
from pipeline.editor import Editor
from pipeline.inversion import Inversion
from pipeline.quality.speed.photographs import Photograph, photographs
from pipeline.synthesis import EditRequest, Synthesis

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

_T = TypeVar("_T")
BALANCED = PRESETS["balanced"]
SETTINGS = BALANCED.inversion.model_copy(update={"num_inference_steps": 20})


@cache
def _photographs() -> list[Photograph]:
    return photographs(4, 64)


def _inverted(editor: Editor) -> list[Inversion]:
    return editor.invert(
        [photo.pixels for photo in _photographs()],
        source_prompts=[photo.source_prompt for photo in _photographs()],
        settings=SETTINGS,
    )


def _edited(editor: Editor, inversions: list[Inversion]) -> list[np.ndarray]:
    requests = [EditRequest(i, prompt) for i, photo in enumerate(_photographs()) for prompt in photo.prompts]
    results = editor.edit_rows(inversions, requests, BALANCED.edit)
    assert all(isinstance(result, Synthesis) for result in results)
    return [result.edited for result in results if isinstance(result, Synthesis)]


def _shortfall(inversions: list[Inversion]) -> float:
    return float(np.mean([inversion.vae_psnr - inversion.recon_psnr for inversion in inversions]))


@pytest.fixture(scope="module")
def on_cpu() -> list[Inversion]:
    """Inversions of the bundled model, made on the CPU."""
    return _inverted(Editor.from_pretrained(device="cpu"))


def test_single_precision_on_a_gpu_is_what_a_cpu_gives(on_cpu: list[Inversion]) -> None:
    """As near to the autoencoder's own reconstruction, to 0.05 dB."""
    inversions = _inverted(Editor.from_pretrained(device="cuda", dtype="float32"))
    assert _shortfall(inversions) == pytest.approx(_shortfall(on_cpu), abs=0.05)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_reconstructs_nearly_as_well(on_cpu: list[Inversion], dtype: str) -> None:
    """At most 0.3 dB further from the autoencoder's own reconstruction, and edits are finite."""
    editor = Editor.from_pretrained(device="cuda", dtype=dtype)
    inversions = _inverted(editor)
    assert _shortfall(inversions) <= _shortfall(on_cpu) + 0.3
    assert all(np.isfinite(picture).all() for picture in _edited(editor, inversions))


def test_a_batch_gives_what_single_images_give() -> None:
    """On a GPU as well, in single precision: reconstructions to 0.05 dB."""
    editor, alone = (Editor.from_pretrained(device="cuda", dtype="float32", slots=slots) for slots in (16, 1))
    for together, single in zip(_inverted(editor), _inverted(alone), strict=True):
        assert together.recon_psnr == pytest.approx(single.recon_psnr, abs=0.05)


def test_a_compiled_network_reconstructs_as_well_as_it_does_as_it_is() -> None:
    """And edits look the same, to a few levels of 255 in the mean."""
    plain, compiled = (Editor.from_pretrained(device="cuda", compiled=compiled) for compiled in (False, True))
    inversions = _inverted(plain)
    assert _shortfall(_inverted(compiled)) == pytest.approx(_shortfall(inversions), abs=0.2)
    for one, other in zip(_edited(plain, inversions), _edited(compiled, inversions), strict=True):
        assert np.abs(one - other).mean() < 3 / 255


def test_too_little_memory_halves_the_slots_and_gives_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """Where the GPU's memory is capped so that all images do not fit together, fewer go at a time."""
    pictures = [photo.pixels for photo in _photographs()] * 32
    settings = SETTINGS.model_copy(update={"num_inference_steps": 4})
    editor = Editor.from_pretrained(device="cuda", dtype="float32", slots=len(pictures))
    plain, most = _with_peak(lambda: editor.invert(pictures, settings=settings))
    few = Editor.from_pretrained(device="cuda", dtype="float32", slots=len(pictures) // 8)
    _, least = _with_peak(lambda: few.invert(pictures, settings=settings))
    assert least < most
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((least + most) / 2 / torch.cuda.get_device_properties(0).total_memory)
    try:
        capped = editor.invert(pictures, settings=settings)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "out of memory: from now on" in caplog.text
    for one, other in zip(plain, capped, strict=True):
        assert one.recon_psnr == pytest.approx(other.recon_psnr, abs=0.05)


def _with_peak(call: Callable[[], _T]) -> tuple[_T, int]:
    """A call's result, and how much of the GPU's memory was reserved at most."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return call(), torch.cuda.max_memory_reserved()
