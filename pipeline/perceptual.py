"""Measures that need a learned network: LPIPS, CLIP similarity and DINO's structure distance.

Weights are the user's to name. What cannot be measured is None, with the reason in `Perceptual.missing`; never zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.config import ScoreWeights
from pipeline.errors import JobError
from pipeline.models.lpips import Lpips
from pipeline.models.vision import Clip, VisionKeys
from pipeline.pixels import Pixels

_T = TypeVar("_T")
# What DINO was trained on.
_MEAN: Final = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
_STD: Final = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
# A picture's longer side as DINO sees it, at most, where the shorter is 224.
_LONGEST: Final = 480 / 224


class Perceptual:
    """The learned measures that there are weights for.

    Attributes:
        missing: why a measure is None: "clip", "dino" or "lpips" → one line.
    """

    def __init__(self, weights: ScoreWeights, device: str | None = None) -> None:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._device = chosen
        missing: dict[str, str] = {}

        def load(measure: str, name: str | None, loader: Callable[[str], _T]) -> _T | None:
            if name is None:
                missing[measure] = f"{measure}: no weights named"
                return None
            try:
                return loader(name)
            except JobError as error:
                missing[measure] = str(error)
                return None

        self._clip = load("clip", weights.clip, lambda name: Clip(name, chosen))
        self._dino = load("dino", weights.dino, lambda name: VisionKeys(name, chosen))
        self._lpips = load("lpips", weights.lpips, lambda name: Lpips.from_pretrained(name).to(chosen))
        self.missing: Mapping[str, str] = missing

    def clip_similarity(self, image: Pixels, prompt: str) -> float | None:
        """100 × the cosine of an image (h, w, 3) and a prompt in CLIP's space, at least 0."""
        return None if self._clip is None else self._clip.similarity(image, prompt)

    @torch.no_grad()
    def lpips(self, a: Pixels, b: Pixels) -> float | None:
        """LPIPS of two images (h, w, 3), 0 where they are equal."""
        if self._lpips is None:
            return None
        x, y = (_planes(image)[None].to(self._device) / 255 * 2 - 1 for image in (a, b))
        return float(self._lpips(x, y))

    def structure_distance(self, a: Pixels, b: Pixels) -> float | None:
        """Mean squared difference of the keys' self-similarities (Tumanyan et al., 2022, equation 3)."""
        if self._dino is None:
            return None
        of_a, of_b = (self_similarity(self._dino.keys(_seen(image, self._dino.side))[0]) for image in (a, b))
        return float((of_a - of_b).square().mean())


def self_similarity(keys: Tensor) -> Tensor:
    """Keys (tokens, width) → the cosines of all pairs (tokens, tokens)."""
    norms: Tensor = keys.norm(dim=1, keepdim=True)
    return keys @ keys.T / (norms @ norms.T).clamp(min=1e-8)


def _seen(image: Pixels, side: int) -> Tensor:
    """An image as PIE-Bench's published code shows it to DINO (1, 3, h, w).

    Bilinear without low-pass, its shorter side `side`; and normalised as if 0 to 255 were 0 to 1. Both move the
    figures, and those that ours are compared with were all made so.
    """
    height, width = image.shape[:2]
    scale = min(side / min(height, width), side * _LONGEST / max(height, width))
    size = (round(height * scale), round(width * scale))
    resized = interpolate(_planes(image)[None], size, mode="bilinear", align_corners=False)
    return (resized - _MEAN) / _STD


def _planes(image: Pixels) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).float()
