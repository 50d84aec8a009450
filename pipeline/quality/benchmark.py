"""The catalogue benchmark: held-out scenes, edits whose true result is rendered, and the systems compared.

A system that changes nothing keeps the background perfectly and has no success: both are reported.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.batch import EditRequest, Inversion
from pipeline.config import EditSettings, InversionSettings
from pipeline.demo.render import changed_mask, render
from pipeline.demo.scene import VOCABULARY, Scene, caption, random_scene
from pipeline.editor import Editor, published
from pipeline.errors import RowError
from pipeline.quality.metrics import psnr

_T = TypeVar("_T")

KINDS: Final = ("colour", "pattern", "background", "object")
# An edit succeeds where it is nearer to the truth than the original by this much, inside the changed region.
SUCCESS_DB: Final = 3.0


@dataclass(frozen=True, slots=True)
class Case:
    """One edit of one held-out scene, with its true result.

    Attributes:
        image, truth: uint8 (h, w, 3), before and after.
        changed: (h, w) bool, where the two differ.
    """

    scene: Scene
    kind: str
    image: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    changed: NDArray[np.bool_]
    source_prompt: str
    prompt: str


@dataclass(frozen=True, slots=True)
class System:
    """One way of editing: how images are inverted, how edits are made, and at which strength."""

    inversion: InversionSettings
    edit: EditSettings
    strength: float


@dataclass(frozen=True, slots=True)
class Score:
    """What one system did with one case; all in dB but `success`."""

    kind: str
    inside_psnr: float
    outside_psnr: float
    gain: float

    @property
    def success(self) -> bool:
        return self.gain >= SUCCESS_DB


def held_out_cases(n_scenes: int, size: int) -> list[Case]:
    """Every kind of edit of `n_scenes` scenes whose seeds training never used."""
    scenes = [random_scene(seed) for seed in range(n_scenes)]
    pairs = [(scene, kind, _edit_of(scene, kind)) for scene in scenes for kind in KINDS]
    before = render([scene for scene, _, _ in pairs], size).images
    after = render([edited for _, _, edited in pairs], size).images
    changed = changed_mask(before, after)[:, 0].bool().numpy()
    as_bytes = [(x * 255).round().byte().permute(0, 2, 3, 1).numpy() for x in (before, after)]
    return [
        Case(scene, kind, as_bytes[0][i], as_bytes[1][i], changed[i], caption(scene), caption(edited))
        for i, (scene, kind, edited) in enumerate(pairs)
    ]


def _edit_of(scene: Scene, kind: str) -> Scene:
    others = [word for word in VOCABULARY[kind] if word != getattr(scene, kind)]
    return scene.edited(**{kind: random.Random(f"{scene.seed} {kind}").choice(others)})


def standard_systems(guidance_scale: float, full: System) -> dict[str, System]:
    """What the README's table compares: prompt swap, prompt tuning, and the full method."""
    bare = EditSettings(mask="none", composite="none", hold_structure=0, interpolation=full.edit.interpolation)
    ddim = InversionSettings(
        method="ddim", guidance_scale=guidance_scale, num_inference_steps=full.inversion.num_inference_steps
    )
    return {
        "prompt swap": System(ddim, bare, 1.0),
        "prompt-tuning": System(full.inversion, bare, full.strength),
        "prompt-tuning + structure + mask + composite": full,
    }


def invert_all(editor: Editor, cases: Sequence[Case], settings: InversionSettings, batch: int) -> list[Inversion]:
    """Invert each distinct image of the cases once; the list has one entry per case."""
    distinct = {case.scene: case for case in cases}
    found: dict[Scene, Inversion] = {}
    for chunk in _chunks(list(distinct.values()), batch):
        images, prompts = [c.image for c in chunk], [c.source_prompt for c in chunk]
        inversions = editor.invert(images, source_prompts=prompts, settings=settings)
        found.update((c.scene, inversion) for c, inversion in zip(chunk, inversions, strict=True))
    return [found[case.scene] for case in cases]


def run_system(
    editor: Editor,
    cases: Sequence[Case],
    inversions: Sequence[Inversion],
    system: System,
    batch: int,
    keep: Callable[[Case, NDArray[np.uint8]], None] | None = None,
) -> list[Score]:
    """Make every case's edit and score it against the truth; `keep` receives each output."""
    scores = []
    for chunk in _chunks(list(zip(cases, inversions, strict=True)), batch):
        requests = [
            # Whoever replaces the object gives up its shape, and says so in the prompt row.
            EditRequest(i, case.prompt, system.strength, hold_structure=0.0 if case.kind == "object" else None)
            for i, (case, _) in enumerate(chunk)
        ]
        results = editor.edit_rows([inversion for _, inversion in chunk], requests, system.edit)
        for (case, inversion), result in zip(chunk, results, strict=True):
            if isinstance(result, RowError):
                raise result
            output = published(result, inversion.original, system.edit)
            scores.append(_score(case, output))
            if keep is not None:
                keep(case, output)
    return scores


def _score(case: Case, output: NDArray[np.uint8]) -> Score:
    image, truth, result = case.image / 255, case.truth / 255, output / 255
    inside = psnr(result, truth, case.changed)
    return Score(case.kind, inside, psnr(result, truth, ~case.changed), inside - psnr(image, truth, case.changed))


def summarise(scores: Sequence[Score]) -> dict[str, dict[str, float]]:
    """Success share, medians and means by kind of edit, and over all of them.

    Systems are scored on the same edits, so the difference of their means is the mean of the differences;
    medians are not moved by a few perfect or hopeless edits. Each says what the other hides.
    """
    table = {}
    for kind in (*KINDS, "all"):
        chosen = [s for s in scores if kind in (s.kind, "all")]
        if not chosen:
            continue
        table[kind] = {
            "success": sum(s.success for s in chosen) / len(chosen),
            "inside_psnr": _over(median, [s.inside_psnr for s in chosen]),
            "outside_psnr": _over(median, [s.outside_psnr for s in chosen]),
            "inside_mean": _over(mean, [s.inside_psnr for s in chosen]),
            "outside_mean": _over(mean, [s.outside_psnr for s in chosen]),
            "gain": _over(median, [s.gain for s in chosen]),
        }
    return table


def _over(statistic: Callable[[list[float]], float], values: Sequence[float]) -> float:
    """A statistic of the values that are there: an edit that changes everything has no outside."""
    finite = [v for v in values if np.isfinite(v)]
    return statistic(finite) if finite else float("nan")


def _chunks(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
