"""What the engine needs of an image that has work left: decoded, checked and resized beside the network's work."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from pipeline.config import JobConfig
from pipeline.errors import RowError
from pipeline.io.arrays import pack_pixels
from pipeline.io.images import Photo, check_mask_shape, decode, decode_mask, resize
from pipeline.io.outcomes import InversionIndex, read_inversion
from pipeline.keys import content_key
from pipeline.stages.rows import Payloads
from pipeline.stages.source import Source
from pipeline.stages.visit import Visit

# (width, height) of an image → that at which the job's model works on it.
WorkingSize = Callable[[int, int], tuple[int, int]]

_ARTIFACT_COLUMNS: Final = (
    "source_prompt",
    "settings",
    "artifact_version",
    "width",
    "height",
    "vae_psnr",
    "recon_psnr",
    "iterations",
    "converged",
    "escalated",
    "seconds",
)


class Prepare:
    """Make the payloads of an image: checked pictures, and the artifact where there is one.

    Args:
        config: of the job.
        inversions: that are committed.
        working_size: of the job's model.
    """

    def __init__(self, config: JobConfig, inversions: InversionIndex, working_size: WorkingSize) -> None:
        self._config = config
        self._inversions = inversions
        self._working_size = working_size

    def __call__(self, visit: Visit, mask: Source | None, *, invert: bool) -> Payloads:
        """The payloads of an image that is to be inverted, or has an artifact.

        Raises:
            RowError: a file cannot be read or used, or the image is not what its artifact was made of.
        """
        wanted = invert or self._config.edit.composite == "full"
        original = self._checked_original(visit) if wanted else None
        photo = None if original is None else decode(original, self._config.max_pixels)
        may_change = None if mask is None else self._checked_mask(visit, mask, photo)
        pixels = artifact = tensors = None
        if invert:
            assert photo is not None
            height, width = photo.pixels.shape[:2]
            size = self._working_size(width, height)
            pixels = pack_pixels(resize(photo.pixels, size))
        else:
            row = read_inversion(self._inversions, visit.inversion_key)
            size, artifact, tensors = (row["width"], row["height"]), _columns(row), row["tensors"]
        return Payloads(
            original=original,
            pixels=pixels,
            mask=None if may_change is None else pack_pixels(resize(may_change, size)),
            frames=None if photo is None else photo.frames,
            artifact=artifact,
            tensors=tensors,
        )

    def _checked_original(self, visit: Visit) -> bytes:
        original = visit.original.data
        visit.tried = visit.original.sha256
        if visit.tried != visit.image_sha256:
            raise RowError(
                "original_changed",
                f"{visit.row['image_uri']}: expected sha256 {visit.image_sha256}, as inverted; got {visit.tried}",
            )
        return original

    def _checked_mask(self, visit: Visit, mask: Source, photo: Photo | None) -> Any:
        visit.tried = content_key({"image": visit.image_sha256, "mask": mask.sha256})
        decoded = decode_mask(mask.data, self._config.max_pixels)
        if photo is not None:
            check_mask_shape(decoded, photo)
        return decoded


def _columns(artifact: dict[str, Any]) -> str:
    return json.dumps({name: artifact.get(name) for name in _ARTIFACT_COLUMNS})
