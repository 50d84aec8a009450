"""The model card: what a trained pipeline folder says about itself."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

SAMPLES: Final = "samples.png"

_CARD: Final = """\
---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# The catalogue model

A small Stable Diffusion that `python -m jobs.train` made from nothing but its own renderings of product
photographs. It knows the words of its catalogue and no others; it is there so that the project runs, and can be
measured, without a download. `diffusers.StableDiffusionPipeline.from_pretrained` loads this folder as it is.

## How it was made

{recipe}

## Figures

{figures}

## Samples

![{n} samples]({samples})

From noise, in reading order. No training scene had the object, the colour and the place of any of these captions
together.

{captions}

## Licence

Apache-2.0, as the project. Every training image was rendered by the project's own code: no photograph, no data set
and no other model's output went into it.
"""


def write_card(path: Path, recipe: Mapping[str, str], figures: Mapping[str, str], captions: Sequence[str]) -> None:
    """Write the card; `captions` are those of the picture `SAMPLES` that stands beside it."""
    numbered = "\n".join(f"{i}. {text}" for i, text in enumerate(captions, start=1))
    text = _CARD.format(
        recipe=_table(recipe), figures=_table(figures), samples=SAMPLES, n=len(captions), captions=numbered
    )
    path.write_text(text, encoding="utf-8")


def _table(rows: Mapping[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def commit() -> str:
    """The commit of the code that runs, with `-dirty` where it was changed; `unknown` outside a checkout."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    command = [git, "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(  # noqa: S603 - no part of the command comes from outside
        command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"
