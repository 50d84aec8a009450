"""A stand-in for the editor, without a model's libraries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pipeline.errors import RowError
from pipeline.inversion import Inversion, stored_tensors
from pipeline.io.images import resize
from pipeline.settings import EditSettings, InversionSettings
from pipeline.synthesis import EditRequest, Synthesis
from tests.stages.sizes import SIDE


class StandInEditor:
    """Not a model: its reconstruction is the picture at 16×16, and its edit is the prompt's length as a colour.

    `fails_on` maps a picture's first red value, or a prompt, to what is raised when it is in a batch.
    """

    model_name = "stand-in"

    def __init__(self, fails_on: dict[Any, Exception] | None = None) -> None:
        self.fails_on = fails_on or {}
        self.batches: list[int] = []

    def invert_rows(
        self, images: Sequence[Any], source_prompts: Sequence[str], settings: InversionSettings
    ) -> list[Inversion | RowError]:
        self.batches.append(len(images))
        for image in images:
            self._check(int(image[0, 0, 0]))
        whole = settings.model_copy(update={"artifact": "full"})
        nothing = {name: torch.zeros(1) for name in stored_tensors(whole)}
        return [
            Inversion(
                tensors=nothing | {"reconstruction": torch.from_numpy(resize(image, (SIDE, SIDE)))},
                source_prompt=prompt,
                settings=whole,
                size=(SIDE, SIDE),
                vae_psnr=40.0,
                recon_psnr=39.0,
                iterations=7,
                seconds=0.5,
            )
            for image, prompt in zip(images, source_prompts, strict=True)
        ]

    def restore_rows(self, inversions: Sequence[Inversion]) -> list[Inversion]:
        return list(inversions)

    def edit_rows(
        self, inversions: Sequence[Inversion], requests: Sequence[EditRequest], settings: EditSettings
    ) -> list[Synthesis | RowError]:
        self.batches.append(len(requests))
        results: list[Synthesis | RowError] = []
        for request in requests:
            # A tokenizer takes no None.
            assert isinstance(inversions[request.inversion].source_prompt, str)
            self._check(request.prompt)
            reconstruction = inversions[request.inversion].tensors["reconstruction"].numpy().astype(np.float32) / 255
            target = np.full_like(reconstruction, len(request.prompt) % 10 / 10)
            edited = reconstruction + np.float32(request.strength) * (target - reconstruction)
            given = request.mask
            mask = np.ones((SIDE, SIDE), np.float32) if given is None else given.astype(np.float32) / 255
            results.append(Synthesis(edited, reconstruction, mask))
        return results

    def _check(self, what: object) -> None:
        if what in self.fails_on:
            raise self.fails_on[what]
