"""At which sizes a model works: arithmetic on its configuration, which needs no weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import JobError
from pipeline.models.families import FAMILIES, pipeline_class
from pipeline.models.loading import resolve_model


@dataclass(frozen=True, slots=True)
class Grid:
    """Working sizes of an area of about `side`² pixels, in multiples of `stride`."""

    side: int
    stride: int

    def working_size(self, width: int, height: int) -> tuple[int, int]:
        """The (width, height) of the grid whose aspect ratio, up to 4:1, is nearest to that of an image."""
        cells = max(1, self.side // self.stride)
        aspect = math.log(min(4.0, max(0.25, width / height)))
        sizes = [(w, max(1, cells * cells // w)) for w in range(1, 2 * cells + 1)]
        w, h = min(sizes, key=lambda size: (abs(math.log(size[0] / size[1]) - aspect), -size[0] * size[1]))
        return w * self.stride, h * self.stride


def grid_of(network: Mapping[str, Any], autoencoder: Mapping[str, Any]) -> Grid:
    """The grid of what a model was trained at, from the configurations of its denoiser and its autoencoder."""
    pixels = 1 << (len(autoencoder["block_out_channels"]) - 1)  # per latent
    # A transformer takes patches; a U-Net halves the latents from level to level.
    latents = network["patch_size"] if "patch_size" in network else 1 << (len(network["block_out_channels"]) - 1)
    return Grid(side=int(network["sample_size"]) * pixels, stride=int(latents) * pixels)


def read_grid(model: str | None, side: int = 0) -> Grid:
    """The grid of a model, as in `resolve_model`, that is not loaded; `side` 0 takes what it was trained at.

    Raises:
        JobError: there is no such model, or its configurations do not say it.
    """
    kind = pipeline_class(model)
    folder, network = resolve_model(model), FAMILIES[kind].network
    try:
        of_network, of_vae = (json.loads((folder / part / "config.json").read_bytes()) for part in (network, "vae"))
        own = grid_of(_corrected(of_network) if kind == "StableDiffusionPipeline" else of_network, of_vae)
    except (OSError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise JobError(
            f"model {model or 'bundled'}: expected sizes in {network}/config.json and vae/config.json; got {reason}"
        ) from error
    return Grid(side or own.side, own.stride)


def _corrected(network: Mapping[str, Any]) -> Mapping[str, Any]:
    """What diffusers' `StableDiffusionPipeline` reads: its versions before 0.9 wrote sizes that were too small."""
    version = network.get("_diffusers_version")
    is_old = version is not None and [int(part) for part in version.split(".")[:2]] < [0, 9]
    return {**network, "sample_size": max(64, int(network["sample_size"]))} if is_old else network
