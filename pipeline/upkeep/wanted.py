"""What a job asks for, by the names that its outputs have: what an output needs to keep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pipeline.asking import Asking, deciding
from pipeline.config import JobConfig
from pipeline.io.sources import remembered
from pipeline.keys import content_key, inversion_identity
from pipeline.planning import Plan, refused_ids
from pipeline.stages.escalation import escalation_identity

Place = tuple[str, str, float]

_COLUMNS: Final = ("image_id", "image_uri", "source_prompt", "mask_uri", "inversion_key")
_PRECISIONS: Final = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Wanted:
    """What a plan asks for.

    Attributes:
        uris: images and masks.
        refused: ids of the manifest rows that it refuses, of images and of prompts.
    """

    plan: Plan
    uris: frozenset[str]
    refused: frozenset[tuple[str, str | None]]
    _places: frozenset[Place]
    _images: Mapping[str, Mapping[str, Any]]
    _sha256s: Mapping[str, str]

    @classmethod
    def by(cls, plan: Plan) -> Wanted:
        """Find out; looks at the stamps of the images, so as to know which have changed.

        Raises:
            StorageError: the output cannot be read.
        """
        asking = Asking(plan.prompts)
        places = {
            (columns["image_id"], edit_id, strength)
            for columns in deciding(plan.images, plan.prompts)
            for edit_id, strength in asking.places(columns)
        }
        names = [name for name in _COLUMNS if name in plan.images.column_names]
        images = {row["image_id"]: row for row in plan.images.select(names).to_pylist()}
        uris = {uri for row in images.values() for uri in (row["image_uri"], row["mask_uri"]) if uri}
        return cls(
            plan=plan,
            uris=frozenset(uris),
            refused=frozenset(refused_ids(plan, refusal) for refusal in plan.refusals),
            _places=frozenset(places),
            _images=images,
            _sha256s=remembered(plan.output).recall(row["image_uri"] for row in images.values()),
        )

    def image(self, image_id: str) -> bool:
        """Whether an image is asked for."""
        return image_id in self._images

    def edit(self, place: Place) -> bool:
        """Whether an edit of this image, id and strength is asked for; `invert` has no say in which are."""
        return self.image(place[0]) if self.plan.command == "invert" else place in self._places

    def artifact(self, key: str, image_id: str, image_sha256: str) -> bool:
        """Whether the job would use an artifact: its settings say so, and the image's bytes if they are known.

        A job that works from another output's artifacts has no say in this one's.
        """
        if self.plan.artifacts != self.plan.output:
            return True
        row = self._images.get(image_id)
        if row is None:
            return False
        if "inversion_key" in row:
            return bool(row["inversion_key"] == key)
        if self._sha256s.get(row["image_uri"], image_sha256) != image_sha256:
            return False
        return key in _keys(self.plan, image_sha256, row["source_prompt"] or "")


def _keys(plan: Plan, image_sha256: str, source_prompt: str) -> Iterable[str]:
    """The keys that an image's artifact may have: a job that names no precision has its output's or cluster's."""
    config: JobConfig = plan.config
    for dtype in _PRECISIONS if config.dtype is None else (config.dtype,):
        yield content_key(
            inversion_identity(
                image_sha256=image_sha256,
                source_prompt=source_prompt,
                model_fingerprint=plan.fingerprint,
                settings=config.inversion.identity(),
                escalation=escalation_identity(config),
                max_side=config.max_side,
                dtype=dtype,
            )
        )
