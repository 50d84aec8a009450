"""An engine stand-in of known cost, for `bench scale` alone: it sleeps where a model would work, and makes no edit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from pipeline.config import JobConfig
from pipeline.inversion import Inversion
from pipeline.pixels import Pixels
from pipeline.settings import EditSettings, InversionSettings
from pipeline.stages.engine import Engine
from pipeline.stages.guards import GuardedEditor, InProcess
from pipeline.synthesis import EditRequest, Synthesis

SIDE: Final = 16
_LATENT: Final = (4, 2, 2)


class StandInEditor:
    """In an editor's place: every row takes the same time, and its picture is grey.

    Args:
        row_seconds: that an inversion or an edit takes.
    """

    model_name: Final = "stand-in of bench scale"

    def __init__(self, row_seconds: float) -> None:
        self._row_seconds = row_seconds

    def invert_rows(
        self, images: Sequence[Pixels], source_prompts: Sequence[str], settings: InversionSettings
    ) -> list[Inversion]:
        time.sleep(self._row_seconds * len(images))
        return [
            Inversion(
                tensors={"trajectory": torch.zeros(1, *_LATENT), "reconstruction": torch.zeros(_LATENT)},
                source_prompt=prompt,
                settings=settings,
                size=(SIDE, SIDE),
                vae_psnr=40.0,
                recon_psnr=40.0,
                iterations=0,
                seconds=self._row_seconds,
            )
            for prompt in source_prompts
        ]

    def restore_rows(self, inversions: Sequence[Inversion]) -> list[Inversion]:
        return list(inversions)

    def edit_rows(self, _: Sequence[Inversion], requests: Sequence[EditRequest], __: EditSettings) -> list[Synthesis]:
        time.sleep(self._row_seconds * len(requests))
        grey, everywhere = np.full((SIDE, SIDE, 3), 0.5, np.float16), np.ones((SIDE, SIDE), np.float16)
        return [Synthesis(grey, grey, everywhere) for _ in requests]


def engine_around(editor: StandInEditor, config: JobConfig) -> Engine:
    """The real engine, with a stand-in in the place of its editor."""
    return Engine(config, GuardedEditor(InProcess(editor, None)))
