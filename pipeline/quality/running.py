"""Running systems over cases: what each makes of a chunk of scenes, and what is measured on the way."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.editor import Editor, published
from pipeline.errors import RowError
from pipeline.inversion import Inversion
from pipeline.models.peers import PEERS, PeerTask
from pipeline.models.stable_diffusion import StableDiffusion
from pipeline.pixels import Pixels
from pipeline.quality.cases import KINDS, Case, held_out_cases
from pipeline.quality.metrics import psnr
from pipeline.quality.scores import Measured
from pipeline.quality.systems import AnySystem, PeerSystem, System
from pipeline.settings import InversionSettings
from pipeline.synthesis import EditRequest

_T = TypeVar("_T")

_STRENGTHS: Final = (0.0, 0.25, 0.5, 0.75)
# Monotonicity is measured on one edit of each of the first scenes, of every kind in turn.
_MONOTONICITY_SCENES: Final = 4 * len(KINDS)


@dataclass(frozen=True, slots=True)
class Part:
    """What a system made of a chunk's cases: outputs (n, h, w, 3), and what was measured of each."""

    outputs: NDArray[np.uint8]
    measured: list[Measured]


class Chunk:
    """Scenes that are run together: rendered when first needed, and inverted once for systems in a row."""

    def __init__(self, model: StableDiffusion, seeds: range, batch: int) -> None:
        self.seeds = seeds
        self._model, self._editor, self._batch = model, Editor(model, slots=batch), batch
        self._inverted: tuple[InversionSettings, list[Inversion]] | None = None

    @cached_property
    def cases(self) -> list[Case]:
        """Every kind of edit of each scene, scene by scene."""
        return held_out_cases(self.seeds, self._editor.working_size(1, 1)[0])

    def run(self, system: AnySystem) -> Part:
        """Make every case's edit.

        Raises:
            RowError: an edit of ours is not finite.
        """
        if isinstance(system, System):
            return self._edited(system)
        if isinstance(system, PeerSystem):
            return self._edited_by_peer(system)
        return _part([case.image for case in self.cases], [Measured()] * len(self.cases))

    @property
    def _photographs(self) -> list[Case]:
        return self.cases[:: len(KINDS)]

    def _inversions(self, settings: InversionSettings) -> list[Inversion]:
        """One inversion per scene."""
        if self._inverted is None or self._inverted[0] != settings:
            found = [
                inversion
                for chunk in _chunks(self._photographs, self._batch)
                for inversion in self._editor.invert(
                    [case.image for case in chunk],
                    source_prompts=[case.source_prompt for case in chunk],
                    settings=settings,
                )
            ]
            self._inverted = settings, found
        return self._inverted[1]

    def _edited(self, system: System) -> Part:
        inversions = self._inversions(system.inversion)
        everything = range(len(self.cases))
        began = time.perf_counter()
        outputs = self._outputs(system, everything, system.strength)
        seconds = (time.perf_counter() - began) / len(outputs)
        monotone = self._monotonicities(system, outputs)
        measured = [
            Measured(of.recon_psnr, of.vae_psnr, of.seconds, seconds, monotone.get(n))
            for n in everything
            for of in [inversions[n // len(KINDS)]]
        ]
        return _part(outputs, measured)

    def _outputs(self, system: System, chosen: Sequence[int], strength: float) -> list[Pixels]:
        """What the system makes of the cases chosen by their indices."""
        inversions = self._inversions(system.inversion)
        requests = [
            # Whoever replaces the object gives up its shape, and says so in the prompt row.
            EditRequest(n // len(KINDS), case.prompt, strength, hold_structure=0.0 if case.replaces_object else None)
            for n in chosen
            for case in [self.cases[n]]
        ]
        outputs = []
        for request, result in zip(requests, self._editor.edit_rows(inversions, requests, system.edit), strict=True):
            if isinstance(result, RowError):
                raise result
            outputs.append(published(result, inversions[request.inversion].original, system.edit))
        return outputs

    def _monotonicities(self, system: System, outputs: Sequence[Pixels]) -> dict[int, float]:
        """By the index of those cases for which it is measured."""
        chosen = [n for n, case in enumerate(self.cases) if _tests_monotonicity(case)]
        by_strength = [self._outputs(system, chosen, system.strength * s) for s in _STRENGTHS]
        paths = zip(*by_strength, [outputs[n] for n in chosen], strict=True)
        return {n: monotonicity(self.cases[n], path) for n, path in zip(chosen, paths, strict=True)}

    def _edited_by_peer(self, system: PeerSystem) -> Part:
        """A peer's edits; asked for the source prompt as well, what it returns is its reconstruction."""
        asked = len(KINDS) + 1
        outputs, measured = list[Pixels](), list[Measured]()
        for cases in _chunks(self.cases, len(KINDS) * max(1, self._batch // asked)):
            photographs = cases[:: len(KINDS)]
            prompts = [
                [*(case.prompt for case in cases[n * len(KINDS) : (n + 1) * len(KINDS)]), photograph.source_prompt]
                for n, photograph in enumerate(photographs)
            ]
            task = PeerTask(
                [case.image for case in photographs], [case.source_prompt for case in photographs], prompts, self._batch
            )
            made = PEERS[system.peer].edit(self._model, task, system.settings)
            inversion, edit = made.inversion_seconds / len(photographs), made.edit_seconds / len(made.pictures)
            for n, photograph in enumerate(photographs):
                *edits, unedited = made.pictures[n * asked : (n + 1) * asked]
                recon = psnr(unedited / 255, photograph.image / 255)
                outputs += edits
                measured += [Measured(recon, None, inversion, edit)] * len(edits)
        return _part(outputs, measured)


def monotonicity(case: Case, outputs: Sequence[Pixels]) -> float:
    """Share of consecutive strengths at which an edit gets farther from the original, in [0, 1].

    `outputs` are in the order of their strengths. The distance is the root mean square difference to the original
    inside the changed region: the rest should not move at all. It has to grow by a tenth of an even step at least,
    so that a knob which stands still, or does everything at once, is seen as such.
    """
    distances = [_distance(case, output) for output in outputs]
    steps = np.diff(distances).tolist()
    least = max(0.0, (distances[-1] - distances[0]) / len(steps) / 10)
    return sum(step > least for step in steps) / len(steps)


def _part(outputs: Sequence[Pixels], measured: list[Measured]) -> Part:
    # In one memory order, so that sums over a part are the same before and after it was stored.
    return Part(np.ascontiguousarray(np.stack(outputs)), measured)


def _distance(case: Case, output: Pixels) -> float:
    difference = output[case.changed].astype(np.float64) - case.image[case.changed]
    return float(np.sqrt(np.square(difference).mean()))


def _tests_monotonicity(case: Case) -> bool:
    seed = case.scene.seed
    return seed < _MONOTONICITY_SCENES and case.kind == KINDS[seed % len(KINDS)]


def _chunks(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
