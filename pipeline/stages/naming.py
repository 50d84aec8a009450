"""The content keys of one job's inversions and edits."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from typing import Any

from pipeline.config import JobConfig
from pipeline.keys import ContentKeys, edit_identity, inversion_identity
from pipeline.records import Edit
from pipeline.settings import Controls
from pipeline.stages.escalation import escalation_identity


class JobKeys:
    """Content keys under a job's settings, which are made into JSON once.

    Args:
        config: of the job.
        fingerprint: of the model.
    """

    def __init__(self, config: JobConfig, fingerprint: str) -> None:
        self._config = config
        self._fingerprint = fingerprint
        # By what an edit's key is of beside its image and prompt. Other edits of the same id and strength differ in
        # these alone.
        self._of_edits: dict[tuple[str, float, float | None, bool], ContentKeys] = {}

    def inversion(self, image_sha256: str, source_prompt: str | None) -> str:
        """The key of an image's inversion."""
        return self._of_inversions.of(image_sha256=image_sha256, source_prompt=source_prompt or "")

    def edit(
        self, edit: Edit, inversion_key: str, image_id: str, fitted_scale: float | None, mask_sha256: str | None
    ) -> str:
        """The key of an edit; `fitted_scale` is the guidance of the inversion."""
        scale = None if edit.guidance_scale == fitted_scale else edit.guidance_scale
        alike = (edit.edit_id, edit.strength, scale, mask_sha256 is not None)
        if alike not in self._of_edits:
            self._of_edits[alike] = self._like(edit, scale, masked=mask_sha256 is not None)
        varying: dict[str, Any] = {
            "inversion": inversion_key,
            "image_id": image_id,
            "prompt": edit.deltas or edit.prompt,
        }
        if mask_sha256 is not None:
            varying["mask_sha256"] = mask_sha256
        if self._weighs(edit):  # words, which one prompt has, filled in, and another does not
            varying["word_weights"] = self._config.edit.controls(edit).word_weights
        return self._of_edits[alike].of(**varying)

    @cached_property
    def _of_inversions(self) -> ContentKeys:
        config = self._config
        like = inversion_identity(
            image_sha256="",
            source_prompt="",
            model_fingerprint=self._fingerprint,
            settings=config.inversion.identity(),
            escalation=escalation_identity(config),
            max_side=config.max_side,
            dtype=config.dtype,
        )
        return ContentKeys(like, ("image_sha256", "source_prompt"))

    def _like(self, edit: Edit, scale: float | None, *, masked: bool) -> ContentKeys:
        varying = ["inversion", "image_id", "prompt"]
        varying += ["mask_sha256"] if masked else []
        varying += ["word_weights"] if self._weighs(edit) else []
        controls = self._config.edit.controls(edit)
        like = edit_identity(
            inversion_key="",
            image_id="",
            edit_id=edit.edit_id,
            prompt="",
            negative_prompt=edit.negative_prompt,
            strength=edit.strength,
            guidance_scale=scale,
            **asdict(controls),
            seed=edit.seed if controls.variation else None,
            mask_sha256=None,
            settings=self._config.edit.of(edit.settings).model_dump(exclude=set(Controls.__slots__)),
        )
        return ContentKeys(like, varying)

    def _weighs(self, edit: Edit) -> bool:
        return bool(edit.word_weights or self._config.edit.word_weights)
