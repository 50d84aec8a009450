"""The engine's face: a model and a method, `invert` and `edit`, for notebooks, services and the job alike."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch

from pipeline.composite import composite
from pipeline.diffusion.pixels import as_tensor
from pipeline.errors import JobError, RowError
from pipeline.inversion import Inversion, invert_batch, restore_batch
from pipeline.io.images import resize
from pipeline.io.pillow import from_pillow, to_pillow
from pipeline.memory import is_out_of_memory
from pipeline.models.assembly import load_backbone
from pipeline.models.backbone import Backbone
from pipeline.models.families import lacking
from pipeline.pixels import Pixels, as_levels
from pipeline.records import MAX_GUIDANCE, MAX_STRENGTH, MAX_WEIGHT, MIN_STRENGTH, MIN_WEIGHT, joined
from pipeline.settings import EditSettings, InversionSettings
from pipeline.synthesis import EditRequest, Synthesis, edit_batch
from pipeline.words import absent

_T = TypeVar("_T")

_log = logging.getLogger("relatent")


class Editor:
    """Text-guided editing of real photographs with one model.

    >>> editor = Editor.from_pretrained()
    >>> inversions = editor.invert(images, source_prompts=["a photo of a red mug on a wooden table"])
    >>> editor.edit(inversions, prompt="a photo of a blue mug on a wooden table", strength=[0, 0.5, 1])
    """

    def __init__(self, model: Backbone, side: int = 0, slots: int = 16) -> None:
        self._model = model
        self._side = side or model.side
        self._slots = slots

    @classmethod
    def from_pretrained(
        cls,
        model: str | None = None,
        *,
        device: str | None = None,
        dtype: str | None = None,
        side: int = 0,
        slots: int = 16,
        lora: Sequence[str] = (),
        preview_vae: str | None = None,
        compiled: bool = False,
    ) -> Editor:
        """Load a model: a diffusers folder, an `s3://` folder or a hub id; None is the bundled one.

        `side` sets the working area, `side`² pixels; 0 takes what the model was trained at. `slots` images or edits go
        through the network together, fewer once its memory has turned out too small. `lora` names weights to fuse into
        the model's, each `URI[:scale]`; `preview_vae` a tiny autoencoder to use in place of the model's. A
        `compiled` network takes minutes for its first calls, and then less for each on a GPU.

        Raises:
            JobError: one of them cannot be loaded.
        """
        backbone = load_backbone(model, device, dtype, lora, preview_vae)
        if compiled:
            backbone.compile()
        return cls(backbone, side, slots)

    @property
    def fingerprint(self) -> str:
        """sha256 of the model's files."""
        return self._model.fingerprint

    @property
    def model_name(self) -> str:
        return self._model.name

    def working_size(self, width: int, height: int) -> tuple[int, int]:
        """The (width, height) at which the model works on an image of this size."""
        return self._model.working_size(width, height, self._side)

    def invert(
        self,
        images: Sequence[Any],
        *,
        source_prompts: Sequence[str] | str | None = None,
        method: str | None = None,
        num_inference_steps: int | None = None,
        settings: InversionSettings | None = None,
    ) -> list[Inversion]:
        """Invert images (Pillow images or uint8 arrays (h, w, 3)); all of one working size go together.

        `method` and `num_inference_steps` are short for those fields of `settings`.

        Raises:
            RowError: an image's latents are not finite.
            JobError: more steps than the model has.
            ValueError: an unknown method, a setting out of its range, or not as many source prompts as images.
        """
        given = {"method": method, "num_inference_steps": num_inference_steps}
        named = {name: value for name, value in given.items() if value is not None}
        chosen = InversionSettings.model_validate((settings or InversionSettings()).model_dump() | named)
        self._warn_of_truncated([source_prompts or ""] if isinstance(source_prompts, str | None) else source_prompts)
        return [_or_raise(result) for result in self.invert_rows(images, source_prompts, chosen)]

    def edit(
        self,
        inversions: Sequence[Inversion],
        *,
        prompt: str | Sequence[tuple[str, float]],
        strength: float | Sequence[float] = 1.0,
        negative_prompt: str = "",
        guidance_scale: float | None = None,
        hold_structure: float | None = None,
        hold_self_attention: float | None = None,
        hold_cross_attention: float | None = None,
        word_weights: Mapping[str, float] | None = None,
        variation: float | None = None,
        seed: int = 0,
        masks: Sequence[Pixels | None] | None = None,
        settings: EditSettings | None = None,
    ) -> list[list[Any]]:
        """Edit each inversion at each strength → Pillow images, one list per inversion, at the originals' sizes.

        Several prompts with strengths of their own are one edit, whose `strength` scales them all; its words have no
        weights. `guidance_scale` None is the inversion's own; the `hold_…` (shares of the steps), `word_weights`
        (factors of the attention to words of the prompt) and `variation` None are those of `settings`; `seed` is that
        of the noise that a variation draws.

        Raises:
            RowError: an edit's latents are not finite.
            JobError: a control that the model's family lacks.
            ValueError: a strength outside [-1, 3], a guidance scale outside [0, 30], a share outside [0, 1], a weight
                outside [-2, 10] or of a word that the prompt lacks, or a negative prompt at guidance 1.
        """
        deltas = () if isinstance(prompt, str) else tuple(prompt)
        text = prompt if isinstance(prompt, str) else joined(deltas)
        strengths = [strength] if isinstance(strength, (int, float)) else list(strength)
        for s in (*strengths, *(share for _, share in deltas)):
            _check("strength", s, MIN_STRENGTH, MAX_STRENGTH)
        _check("guidance_scale", guidance_scale, 0, MAX_GUIDANCE)
        _check("hold_structure", hold_structure, 0, 1)
        _check("hold_self_attention", hold_self_attention, 0, 1)
        _check("hold_cross_attention", hold_cross_attention, 0, 1)
        _check("variation", variation, 0, 1)
        for word, weight in (word_weights or {}).items():
            _check(f"word_weights[{word!r}]", weight, MIN_WEIGHT, MAX_WEIGHT)
        scales = {of.settings.guidance_scale if guidance_scale is None else guidance_scale for of in inversions}
        if negative_prompt and 1 in scales:
            raise ValueError("negative_prompt: expected a guidance scale other than 1; at 1 it has no say")
        if unknown := absent(word_weights or {}, "" if deltas else text):
            raise ValueError(f"word_weights: expected words of the prompt; got {unknown[0]!r}")
        self._warn_of_truncated([*(text for text, _ in deltas or [(text, 1.0)]), negative_prompt])
        settings = settings or EditSettings()
        requests = [
            EditRequest(
                inversion=i,
                prompt=text,
                strength=s,
                negative_prompt=negative_prompt,
                guidance_scale=guidance_scale,
                hold_structure=hold_structure,
                mask=_fitted_mask(masks, i, inversion.size),
                hold_self_attention=hold_self_attention,
                hold_cross_attention=hold_cross_attention,
                word_weights=word_weights,
                deltas=deltas,
                variation=variation,
                seed=seed,
            )
            for i, inversion in enumerate(inversions)
            for s in strengths
        ]
        results = self.edit_rows(inversions, requests, settings)
        edited = [inversions[request.inversion] for request in requests]
        pictures = [
            to_pillow(published(_or_raise(result), inversion.original, settings), inversion.alpha)
            for inversion, result in zip(edited, results, strict=True)
        ]
        per_image = len(strengths)
        return [pictures[i * per_image : (i + 1) * per_image] for i in range(len(inversions))]

    def invert_rows(
        self, images: Sequence[Any], source_prompts: Sequence[str] | str | None, settings: InversionSettings
    ) -> list[Inversion | RowError]:
        """As `invert`, with a row's failure in its place: one bad row costs the others nothing."""
        decoded = [from_pillow(image) for image in images]
        prompts = (
            [source_prompts or ""] * len(images)
            if not isinstance(source_prompts, Sequence) or isinstance(source_prompts, str)
            else list(source_prompts)
        )
        if len(prompts) != len(images):
            raise ValueError(f"source_prompts: expected one, or {len(images)}; got {len(prompts)}")
        sizes = [self.working_size(pixels.shape[1], pixels.shape[0]) for pixels, _ in decoded]

        def run(rows: list[int]) -> list[Inversion | RowError]:
            size = sizes[rows[0]]
            pixels = as_tensor([resize(decoded[i][0], size) for i in rows])
            texts = [prompts[i] for i in rows]
            found = self._fitting(lambda slots: invert_batch(self._model, pixels, texts, size, settings, slots))
            return [
                replace(f, original=decoded[i][0], alpha=decoded[i][1]) if isinstance(f, Inversion) else f
                for i, f in zip(rows, found, strict=True)
            ]

        return _grouped(sizes, run)

    def restore_rows(self, inversions: Sequence[Inversion]) -> list[Inversion]:
        """Compute again what compact artifacts left out; inversions that are whole stay as they are."""

        def run(rows: list[int]) -> list[Inversion]:
            group = [inversions[i] for i in rows]
            if group[0].is_whole:
                return group
            return self._fitting(lambda slots: restore_batch(self._model, group, slots))

        return _grouped([(i.is_whole, i.size, i.settings, _layout(i)) for i in inversions], run)

    def edit_rows(
        self, inversions: Sequence[Inversion], requests: Sequence[EditRequest], settings: EditSettings
    ) -> list[Synthesis | RowError]:
        """Synthesise edits of whole inversions at the working size; compatible rows share the network's calls.

        Raises:
            JobError: a control that the model's family lacks.
        """
        for request in requests:
            own = settings.of(request.settings)
            for reason in lacking(self._model.family, own.controls(request), own.mask):
                raise JobError(reason)
        kinds = [
            (of.size, of.settings, _layout(of), r.strength == 0, tuple(sorted(r.settings.items())))
            for r in requests
            for of in [inversions[r.inversion]]
        ]

        def run(rows: list[int]) -> list[Synthesis | RowError]:
            made: list[Synthesis | RowError] = []
            while len(made) < len(rows):
                made += self._fitting(partial(first, rows[len(made) :]))
            return made

        def first(rows: list[int], slots: int) -> list[Synthesis | RowError]:
            group = [requests[i] for i in rows[:slots]]
            own = settings.of(group[0].settings)
            return edit_batch(self._model, [inversions[r.inversion] for r in group], group, own)

        return _grouped(kinds, run)

    def _warn_of_truncated(self, prompts: Sequence[str]) -> None:
        for prompt in dict.fromkeys(prompts):
            if not self._model.holds(prompt):
                _log.warning("prompt %r: its end does not fit into the model's text window, and is cut off", prompt)

    def _fitting(self, call: Callable[[int], _T]) -> _T:
        """Call with the number of slots, and from now on with half as many each time that memory does not suffice."""
        while True:
            try:
                return call(self._slots)
            except Exception as error:
                if self._slots == 1 or not is_out_of_memory(error):
                    raise
            # Outside the handler: the error's traceback would keep the failed call's tensors alive.
            self._slots = (self._slots + 1) // 2
            _log.warning("out of memory: from now on %d images go through the network together", self._slots)


def published(synthesis: Synthesis, original: Pixels | None, settings: EditSettings) -> Pixels:
    """The output's pixels: composited into the original, or the bare edit at the working size."""
    if settings.composite == "none":
        return as_levels(synthesis.edited)
    if original is None:
        raise JobError("composite: expected the inversion's original image; got none (composite='none' needs none)")
    made = synthesis.edited, synthesis.reconstruction, synthesis.mask
    return composite(original, *made, keeps_shape=synthesis.keeps_shape)


def _grouped(kinds: Sequence[Any], run: Callable[[list[int]], list[_T]]) -> list[_T]:
    """Run rows of one kind together and return the results in the rows' order."""
    groups: dict[Any, list[int]] = defaultdict(list)
    for i, kind in enumerate(kinds):
        groups[kind].append(i)
    results: dict[int, _T] = {}
    for rows in groups.values():
        results.update(zip(rows, run(rows), strict=True))
    return [results[i] for i in range(len(kinds))]


def _layout(inversion: Inversion) -> frozenset[tuple[str, torch.Size]]:
    """What tensors of inversions that go together have in common; those of an older artifact may differ."""
    return frozenset((name, tensor.shape) for name, tensor in inversion.tensors.items())


def _or_raise(result: _T | RowError) -> _T:
    if isinstance(result, RowError):
        raise result
    return result


def _check(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise ValueError(f"{name}: expected {low} to {high}; got {value}")


def _fitted_mask(masks: Sequence[Pixels | None] | None, index: int, size: tuple[int, int]) -> Pixels | None:
    mask = masks[index] if masks is not None else None
    return None if mask is None else resize(mask, size)
