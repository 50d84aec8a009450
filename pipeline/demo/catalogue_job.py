"""The demonstration: a small catalogue of photographs, two manifests, and the job that they make."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from numpy.typing import NDArray

from pipeline.config import JobConfig
from pipeline.demo.render import render
from pipeline.demo.scene import PLACES, Scene, caption
from pipeline.io.images import encode_png
from pipeline.io.storage import write_bytes
from pipeline.settings import InversionSettings

PHOTOGRAPH_SIDE: Final = 192

# Seeds of the benchmark's range: training has never seen them.
SCENES: Final = (
    Scene("mug", "red", "glossy", "plain", "table", seed=101),
    Scene("bottle", "green", "glossy", "plain", "counter", seed=102),
    Scene("vase", "yellow", "matte", "dotted", "studio", seed=103),
    Scene("bowl", "white", "glossy", "plain", "brick", seed=104),
    Scene("box", "purple", "matte", "plain", "lawn", seed=105),
    Scene("ball", "red", "matte", "dotted", "lawn", seed=106),
    Scene("chair", "yellow", "matte", "plain", "counter", seed=107),
    Scene("lamp", "green", "metallic", "plain", "table", seed=108),
    Scene("mug", "purple", "matte", "dotted", "brick", seed=109),
    Scene("vase", "red", "metallic", "plain", "table", seed=110),
    Scene("bottle", "yellow", "metallic", "plain", "studio", seed=111),
    Scene("box", "green", "glossy", "dotted", "counter", seed=112),
)

PROMPTS: Final[tuple[dict[str, Any], ...]] = (
    {"edit_id": "blue", "prompt": "a photo of a blue {material} {pattern} {object} {place}", "strength": [0, 0.5, 1]},
    {"edit_id": "striped", "prompt": "a photo of a {colour} {material} striped {object} {place}"},
    {"edit_id": "beach", "prompt": "a photo of a {colour} {material} {pattern} {object} on a sandy beach"},
    {
        "edit_id": "black-tableware",
        "prompt": "a photo of a black {material} {pattern} {object} {place}",
        "where": {"object": ["mug", "bottle", "bowl"]},
    },
)


def image_id(scene: Scene) -> str:
    """The scene's name in the manifest."""
    return f"{scene.colour}-{scene.pattern}-{scene.object}-{scene.seed}"


def write_catalogue(folder: Path) -> JobConfig:
    """Render the photographs that are not there yet, write the manifests, and return the job over them."""
    photographs, manifests = folder / "photographs", folder / "manifests"
    missing = [scene for scene in SCENES if not (photographs / f"{image_id(scene)}.png").exists()]
    for scene in missing:
        path = photographs / f"{image_id(scene)}.png"
        write_bytes(str(path), encode_png(_photograph(scene), None, None))
    write_bytes(str(manifests / "images.csv"), _images_csv().encode())
    write_bytes(str(manifests / "prompts.yaml"), yaml.safe_dump(list(PROMPTS), sort_keys=False).encode())
    return JobConfig(
        images=str(manifests / "images.csv"),
        prompts=str(manifests / "prompts.yaml"),
        output=str(folder),
        inversion=InversionSettings(artifact="full"),  # the contact sheet shows the reconstructions that it holds
    )


def _photograph(scene: Scene) -> NDArray[np.uint8]:
    pixels = render([scene], PHOTOGRAPH_SIDE).images[0].permute(1, 2, 0)
    return (pixels * 255).round().byte().numpy()


def _images_csv() -> str:
    text = io.StringIO()
    names = ("image_id", "image_uri", "source_prompt", "object", "colour", "material", "pattern", "place")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for scene in SCENES:
        name = image_id(scene)
        own = (scene.object, scene.colour, scene.material, scene.pattern, PLACES[scene.background])
        writer.writerow((name, f"../photographs/{name}.png", caption(scene), *own))
    return text.getvalue()
