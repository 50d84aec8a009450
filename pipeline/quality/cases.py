"""The benchmark's cases: held-out scenes, and edits of them whose true result is rendered."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.render import changed_mask, render
from pipeline.demo.scene import HELD_OUT_SEEDS, VOCABULARY, Scene, caption, random_scene
from pipeline.diffusion.pixels import as_pixels
from pipeline.pixels import Pixels

# One attribute each, and `two` of them at once.
KINDS: Final = ("colour", "pattern", "material", "background", "object", "two")
# Scenes that settings may be tuned on: held out from training, and none of the benchmark's own.
TUNING_SEEDS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Case:
    """One edit of one held-out scene, with its true result.

    Attributes:
        image, truth: uint8 (h, w, 3), before and after.
        changed: (h, w) bool, where the two differ.
    """

    scene: Scene
    kind: str
    image: Pixels
    truth: Pixels
    changed: NDArray[np.bool_]
    source_prompt: str
    prompt: str
    replaces_object: bool


def held_out_cases(seeds: Iterable[int], size: int) -> list[Case]:
    """Every kind of edit of the scenes of these seeds, scene by scene, `size` pixels wide and high."""
    pairs = [(scene, kind, edited_scene(scene, kind)) for scene in map(random_scene, seeds) for kind in KINDS]
    assert all(scene.seed < HELD_OUT_SEEDS for scene, _, _ in pairs)
    before = render([scene for scene, _, _ in pairs], size).images
    after = render([edited for _, _, edited in pairs], size).images
    changed = changed_mask(before, after)[:, 0].bool().numpy()
    originals, truths = as_pixels(before), as_pixels(after)
    return [
        Case(
            scene,
            kind,
            originals[i],
            truths[i],
            changed[i],
            caption(scene),
            caption(edited),
            scene.object != edited.object,
        )
        for i, (scene, kind, edited) in enumerate(pairs)
    ]


def edited_scene(scene: Scene, kind: str) -> Scene:
    """The scene after its edit of a kind: for one attribute another word, for `two` two attributes' of ten pairs.

    Words and pairs are drawn evenly, by the scene's seed.
    """
    rng = random.Random(f"{scene.seed} {kind}")
    attributes = rng.sample(sorted(VOCABULARY), 2) if kind == "two" else [kind]
    return scene.edited(**{name: rng.choice(_other_words(scene, name)) for name in attributes})


def _other_words(scene: Scene, attribute: str) -> list[str]:
    return [word for word in VOCABULARY[attribute] if word != getattr(scene, attribute)]
