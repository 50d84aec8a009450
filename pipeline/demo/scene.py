"""The catalogue's vocabulary: what a scene is, how it is drawn at random, and how it is captioned."""

from __future__ import annotations

import dataclasses
import itertools
import random
from dataclasses import dataclass
from typing import Final

OBJECTS: Final = ("mug", "bottle", "vase", "bowl", "box", "ball", "chair", "lamp")
COLOURS: Final = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
MATERIALS: Final = ("matte", "glossy", "metallic")
PATTERNS: Final = ("plain", "striped", "dotted")

PLACES: Final = {
    "studio": "in a white studio",
    "table": "on a wooden table",
    "counter": "on a marble counter",
    "beach": "on a sandy beach",
    "lawn": "on a green lawn",
    "brick": "against a brick wall",
}
BACKGROUNDS: Final = tuple(PLACES)

VOCABULARY: Final = {
    "object": OBJECTS,
    "colour": COLOURS,
    "material": MATERIALS,
    "pattern": PATTERNS,
    "background": BACKGROUNDS,
}

# Scenes of the benchmark have seeds below this bound; training draws its seeds above it.
HELD_OUT_SEEDS: Final = 1_000_000
_UNSEEN_RESIDUE: Final = 5


@dataclass(frozen=True, slots=True)
class Scene:
    """One product photograph to be: five named attributes, and a seed that fixes everything else.

    The seed decides camera, light, pose and the phase of every texture, so two scenes that differ
    in one attribute are the same photograph before and after that edit.

    Raises:
        ValueError: an attribute is not in the vocabulary.
    """

    object: str
    colour: str
    material: str
    pattern: str
    background: str
    seed: int

    def __post_init__(self) -> None:
        for attribute, words in VOCABULARY.items():
            value = getattr(self, attribute)
            if value not in words:
                raise ValueError(f"scene {attribute}: expected one of {', '.join(words)}; got {value!r}")

    def edited(self, **attributes: str) -> Scene:
        """Return the same photograph with the named attributes changed; the seed stays."""
        unknown = attributes.keys() - VOCABULARY.keys()
        if unknown:
            raise ValueError(f"scene edit: expected {', '.join(VOCABULARY)}; got {', '.join(sorted(unknown))}")
        return dataclasses.replace(self, **attributes)  # type: ignore[arg-type]


def random_scene(seed: int) -> Scene:
    """Draw the scene that `seed` stands for: every attribute uniform and independent."""
    rng = random.Random(seed)
    drawn = {attribute: rng.choice(words) for attribute, words in VOCABULARY.items()}
    return Scene(**drawn, seed=seed)


def is_unseen(scene: Scene) -> bool:
    """Whether training leaves out this scene's object, colour and place together: one triple in sixteen."""
    o, c, b = OBJECTS.index(scene.object), COLOURS.index(scene.colour), BACKGROUNDS.index(scene.background)
    return (5 * o + 3 * c + 7 * b) % 16 == _UNSEEN_RESIDUE


def unseen_scenes() -> list[Scene]:
    """The unseen triples, each as one scene with material and pattern in turn."""
    triples = [(o, c, b) for o in OBJECTS for c in COLOURS for b in BACKGROUNDS]
    scenes = [
        Scene(o, c, MATERIALS[i % len(MATERIALS)], PATTERNS[i // 3 % len(PATTERNS)], b, seed=i)
        for i, (o, c, b) in enumerate(triples)
    ]
    return [scene for scene in scenes if is_unseen(scene)]


def caption(scene: Scene, *, material: bool = True, pattern: bool = True) -> str:
    """Describe a scene, for example `a photo of a red glossy striped mug on a wooden table`.

    Every caption has its words in the same places, which keeps the token positions of two captions
    aligned. Training leaves out the material's or the pattern's word now and then, so that a prompt
    may do so too.
    """
    article = "an" if scene.colour[0] in "aeiou" else "a"
    words = [scene.colour]
    words += [scene.material] if material else []
    words += [scene.pattern] if pattern else []
    return f"a photo of {article} {' '.join(words)} {scene.object} {PLACES[scene.background]}"


def caption_words() -> tuple[str, ...]:
    """Every word that a caption can have, each once: the tokenizer's vocabulary, in a fixed order."""
    attributes = itertools.product(OBJECTS, COLOURS, MATERIALS, PATTERNS, BACKGROUNDS)
    captions = (caption(Scene(o, c, m, p, b, seed=0)) for o, c, m, p, b in attributes)
    return tuple(dict.fromkeys(word for text in captions for word in text.split()))
