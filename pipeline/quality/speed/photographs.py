"""What is inverted and edited: held-out photographs of the catalogue, at any model's size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pipeline.demo.render import render
from pipeline.demo.scene import caption, random_scene
from pipeline.diffusion.pixels import as_pixels
from pipeline.io.images import resize
from pipeline.pixels import Pixels
from pipeline.quality.cases import KINDS, edited_scene

EDITS: Final = KINDS[:4]  # those that keep the object, and so its shape, as the presets do
_RENDERED_SIDE: Final = 256  # larger ones are enlarged: rendering them would take longer than inverting them


@dataclass(frozen=True, slots=True)
class Photograph:
    """One photograph uint8 (h, w, 3), and the prompts of its edits."""

    pixels: Pixels
    source_prompt: str
    prompts: tuple[str, ...]


def photographs(n: int, side: int) -> list[Photograph]:
    """The first `n` held-out scenes, `side` × `side` pixels, each with one edit of every kind in `EDITS`."""
    scenes = [random_scene(seed) for seed in range(n)]
    images = render(scenes, min(side, _RENDERED_SIDE)).images
    return [
        Photograph(
            resize(pixels, (side, side)),
            caption(scene),
            tuple(caption(edited_scene(scene, kind)) for kind in EDITS),
        )
        for pixels, scene in zip(as_pixels(images), scenes, strict=True)
    ]
