"""`relatent bench speed`: what a batch gains over the same images one at a time, and that it changes nothing."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.batch import EditRequest
from pipeline.config import EditSettings, InversionSettings
from pipeline.editor import Editor, published
from pipeline.errors import RowError
from pipeline.quality.cases import Case, held_out_cases


@dataclass(frozen=True, slots=True)
class SpeedReport:
    """Seconds per image, inverted and edited once, in one batch and alone, in the same run.

    Attributes:
        max_pixel_difference: largest difference between the two ways' outputs, in levels of 255.
    """

    machine: str
    images: int
    method: str
    batched_s: float
    single_s: float
    max_pixel_difference: int

    @property
    def ratio(self) -> float:
        """How many times faster the batch is."""
        return self.single_s / self.batched_s

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.ratio}


def measure_speed(editor: Editor, n_images: int, settings: InversionSettings) -> SpeedReport:
    """Invert and edit `n_images` held-out photographs in one batch, then one by one."""
    cases = [c for c in held_out_cases(range(n_images), editor.working_size(1, 1)[0]) if c.kind == "colour"]
    _edited(editor, cases[:1], settings.model_copy(update={"num_inference_steps": 2}))  # first calls pay set-up
    began = time.perf_counter()
    batched = _edited(editor, cases, settings)
    between = time.perf_counter()
    single = [output for case in cases for output in _edited(editor, [case], settings)]
    ended = time.perf_counter()
    difference = max(int(np.abs(a.astype(int) - b).max()) for a, b in zip(batched, single, strict=True))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    return SpeedReport(
        machine=f"{platform.machine()}, {device}",
        images=n_images,
        method=settings.method,
        batched_s=(between - began) / n_images,
        single_s=(ended - between) / n_images,
        max_pixel_difference=difference,
    )


def _edited(editor: Editor, cases: Sequence[Case], settings: InversionSettings) -> list[NDArray[np.uint8]]:
    inversions = editor.invert(
        [case.image for case in cases], source_prompts=[case.source_prompt for case in cases], settings=settings
    )
    requests = [EditRequest(i, case.prompt) for i, case in enumerate(cases)]
    outputs = []
    for inversion, result in zip(inversions, editor.edit_rows(inversions, requests, EditSettings()), strict=True):
        if isinstance(result, RowError):
            raise result
        outputs.append(published(result, inversion.original, EditSettings()))
    return outputs
