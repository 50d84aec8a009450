"""Which model families there are, and what each can do; a plan asks here, and loads no model for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pipeline.errors import JobError
from pipeline.models.loading import resolve_model

# The controls of an edit that act on attention from the picture to the words.
_OF_CROSS_ATTENTION: Final = ("hold_self_attention", "hold_cross_attention", "word_weights")
_MASKS_OF_CROSS_ATTENTION: Final = ("attention", "both")


@dataclass(frozen=True, slots=True)
class Family:
    """One family of models.

    Attributes:
        title: as its users call it.
        module: the file in `pipeline/models` that has it.
        name: its class there.
        network: the part of its pipeline that is the denoiser, and its folder.
        cross_attention: whether words act through layers of their own, whose maps can be held, weighted and watched.
    """

    title: str
    module: str
    name: str
    network: str = "unet"
    cross_attention: bool = True


# By the class of diffusers' pipeline, which a model's folder names in model_index.json.
FAMILIES: Final[Mapping[str, Family]] = {
    "StableDiffusionPipeline": Family("Stable Diffusion 1.x/2.x", "stable_diffusion", "StableDiffusion"),
    "StableDiffusionXLPipeline": Family("Stable Diffusion XL", "stable_diffusion_xl", "StableDiffusionXL"),
    "StableDiffusion3Pipeline": Family(
        "Stable Diffusion 3", "stable_diffusion_3", "StableDiffusion3", network="transformer", cross_attention=False
    ),
}


def pipeline_class(model: str | None) -> str:
    """The key in `FAMILIES` of a model, which is as in `resolve_model`.

    Raises:
        JobError: there is no such model, or it is of no family here.
    """
    name = model or "bundled"
    found = json.loads((resolve_model(model) / "model_index.json").read_text()).get("_class_name")
    if found not in FAMILIES:
        known = ", ".join(f"{key} ({family.title})" for key, family in FAMILIES.items())
        raise JobError(f"model {name}: expected one of {known}; got {found}")
    return str(found)


def lacking(family: Family, asked: Any, mask: str = "none") -> list[str]:
    """What an edit, or a job's settings, ask of a model that its family lacks: one clause for each.

    Of `asked` the controls of `pipeline.settings.Controlled` are read; `mask` is the kind that is to be found.
    """
    if family.cross_attention:
        return []
    names = [name for name in _OF_CROSS_ATTENTION if getattr(asked, name)]
    reason = f"expected a model with cross-attention; {family.title} has none"
    return [f"{name}: {reason}" for name in [*names, *([f"mask {mask}"] if mask in _MASKS_OF_CROSS_ATTENTION else [])]]
