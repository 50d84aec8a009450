"""The second stage: the model. Inverts what has no artifact, makes the edits, and lets rows fail one by one."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from pipeline.config import JobConfig
from pipeline.editor import Editor
from pipeline.errors import RowError
from pipeline.inversion import Inversion
from pipeline.io.arrays import pack_arrays, unpack_pixels
from pipeline.io.tensors import pack, tensor_index
from pipeline.keys import ARTIFACT_VERSION
from pipeline.pixels import Pixels
from pipeline.records import Failure
from pipeline.settings import InversionSettings
from pipeline.stages.escalation import inverted_until_near
from pipeline.stages.guards import GuardedEditor, InChild, InProcess
from pipeline.stages.isolation import each
from pipeline.stages.restoring import restored
from pipeline.stages.rows import FailedRow, Fetched, Made, Order, dump, image_columns, load_orders, passed_on
from pipeline.synthesis import EditRequest, Synthesis

_Job = tuple[Fetched, Order]
_Inversions = dict[str, Inversion | Exception]


class Engine:
    """One model in one process; turns fetched images that have work left into inversions and edits.

    Results come in parts: first a batch's inversions, so that the costly part is committed early, then its
    edits, at most `batch_size` at a time, so that memory stays bounded however many are asked for.
    """

    def __init__(self, config: JobConfig, editor: Editor | GuardedEditor) -> None:
        self._config = config
        self._editor = editor

    @classmethod
    def loaded(cls, config: JobConfig, device: str | None, row_seconds: float | None, *, apart: str | None) -> Engine:
        """An engine with the job's model; `device` None takes a GPU where there is one.

        Args:
            config: of the job.
            device: where the model goes.
            row_seconds: the most that a row may take in it; None: for ever.
            apart: of the run of this name: put the model into a process of its own, so that a row that ends it, or
                hangs, can be told.

        Raises:
            JobError: the model cannot be loaded; `apart`, that shows with the first rows.
        """
        load = partial(_editor, config, device)
        guard = InChild(load, apart, row_seconds) if apart else InProcess(load(), row_seconds)
        return cls(config, GuardedEditor(guard))

    def __call__(self, rows: Sequence[Fetched]) -> Iterator[list[Made]]:
        inversions = self._inversions(rows)
        yield list(self._heads(rows, inversions))
        usable = [row for row in rows if isinstance(inversions[row["inversion_key"]], Inversion)]
        jobs = [(row, order) for row in usable for order in load_orders(row["orders"])]
        for start in range(0, len(jobs), self._config.batch_size):
            yield list(self._edits(jobs[start : start + self._config.batch_size], inversions))

    def _inversions(self, rows: Sequence[Fetched]) -> _Inversions:
        """The inversions of all rows by key: restored where committed, else made; equal images share one."""
        new = {row["inversion_key"]: row for row in rows if row["tensors"] is None}
        made = inverted_until_near(self._invert, list(new.values()), self._config)
        old = [row for row in rows if row["tensors"] is not None]
        read = {row["inversion_key"]: restored(row) for row in old}
        edited = {row["inversion_key"]: read[row["inversion_key"]] for row in old if load_orders(row["orders"])}
        return dict(zip(new, made, strict=True)) | read | self._whole(edited)

    def _invert(self, rows: Sequence[Fetched], settings: InversionSettings) -> list[Inversion | Exception]:
        def together(part: Sequence[Fetched]) -> list[Inversion | Exception]:
            pictures = [unpack_pixels(row["pixels"]) for row in part if row["pixels"] is not None]
            prompts = [row["source_prompt"] or "" for row in part]
            return list(self._editor.invert_rows(pictures, prompts, settings))

        return each(together, rows)

    def _whole(self, inversions: Mapping[str, Inversion | Exception]) -> _Inversions:
        """Those that could be read, with what their artifacts left out."""
        usable = {key: inversion for key, inversion in inversions.items() if isinstance(inversion, Inversion)}
        return dict(zip(usable, each(self._editor.restore_rows, list(usable.values())), strict=True))

    def _heads(self, rows: Sequence[Fetched], inversions: _Inversions) -> Iterator[Made]:
        """One part per image: its new inversion, that it was there already, or why there is none.

        Images of the same bytes share an inversion, and each has a row of its own.
        """
        there = {row["inversion_key"] for row in rows if row["tensors"] is not None}
        for row in rows:
            key = row["inversion_key"]
            inversion = inversions[key]
            if not isinstance(inversion, Inversion):
                failure = Failure.of(inversion, row["image_id"])
                edits = len(load_orders(row["orders"]))
                yield passed_on(row, failures=[FailedRow(failure, row["image_uri"], key, edits)])
                continue
            part = passed_on(row, reused=int(key in there))
            there.add(key)
            if not row["named"]:
                part["model"] = self._editor.model_name
                part["inversion"] = _columns(inversion, row["frames"])
                part["tensors"] = pack(inversion.kept)
            yield part

    def _edits(self, jobs: Sequence[_Job], inversions: _Inversions) -> Iterator[Made]:
        """Parts that hold some edits of one image each."""
        began = time.perf_counter()
        results = each(lambda part: self._synthesise(part, inversions), jobs)
        seconds = (time.perf_counter() - began) / len(jobs)
        for _, group in itertools.groupby(zip(jobs, results, strict=True), key=lambda pair: pair[0][0]["image_id"]):
            yield self._part(list(group), inversions, seconds)

    def _synthesise(self, jobs: Sequence[_Job], inversions: _Inversions) -> list[Synthesis | RowError]:
        keys = list(dict.fromkeys(row["inversion_key"] for row, _ in jobs))
        used = [inversion for key in keys if isinstance(inversion := inversions[key], Inversion)]
        masks = {row["image_id"]: _mask(row["mask"]) for row, _ in jobs}
        requests = [
            EditRequest(
                inversion=keys.index(row["inversion_key"]),
                prompt=order.edit.prompt,
                strength=order.edit.strength,
                negative_prompt=order.edit.negative_prompt,
                guidance_scale=order.edit.guidance_scale,
                hold_structure=order.edit.hold_structure,
                hold_self_attention=order.edit.hold_self_attention,
                hold_cross_attention=order.edit.hold_cross_attention,
                word_weights=order.edit.word_weights,
                mask=masks[row["image_id"]],
                deltas=order.edit.deltas,
                variation=order.edit.variation,
                seed=order.seed or 0,
                settings=order.edit.settings,
            )
            for row, order in jobs
        ]
        return self._editor.edit_rows(used, requests, self._config.edit)

    def _part(
        self,
        group: list[tuple[_Job, Synthesis | Exception]],
        inversions: _Inversions,
        seconds: float,
    ) -> Made:
        row = group[0][0][0]
        made = [(order, result) for (_, order), result in group if isinstance(result, Synthesis)]
        failures = [
            FailedRow(Failure.of(result, row["image_id"], order.edit), row["image_uri"], order.key, edits=1)
            for (_, order), result in group
            if not isinstance(result, Synthesis)
        ]
        inversion = inversions[row["inversion_key"]]
        assert isinstance(inversion, Inversion)
        return Made(
            **image_columns(row),
            image_sha256=row["image_sha256"],
            inversion_key=row["inversion_key"],
            model=self._editor.model_name,
            original=row["original"],
            inversion=_columns(inversion, row["frames"]),
            tensors=None,
            orders=dump([order for order, _ in made]),
            pictures=_packed([synthesis for _, synthesis in made]) if made else None,
            truncated=json.dumps([synthesis.truncated for _, synthesis in made]),
            seconds=seconds,
            reused=0,
            kept=0,
            failures=dump(failures),
            seen="[]",
        )


def _editor(config: JobConfig, device: str | None) -> Editor:
    return Editor.from_pretrained(
        config.model,
        device=device,
        dtype=config.dtype,
        side=config.max_side,
        slots=config.slots,
        lora=config.lora,
        preview_vae=config.preview_vae,
        compiled=config.compile,
    )


def _columns(inversion: Inversion, frames: int | None) -> str:
    """The inversion's columns of the artifact table, as JSON."""
    width, height = inversion.size
    return json.dumps(
        {
            "source_prompt": inversion.source_prompt,
            "method": inversion.settings.method,
            "settings": inversion.settings.model_dump_json(),
            "artifact_version": ARTIFACT_VERSION,
            "width": width,
            "height": height,
            "frames": frames,
            "vae_psnr": inversion.vae_psnr,
            "recon_psnr": inversion.recon_psnr,
            "iterations": inversion.iterations,
            "converged": inversion.converged,
            "escalated": inversion.escalated,
            "seconds": inversion.seconds,
            "tensor_index": tensor_index(inversion.kept),
        }
    )


def _mask(mask: bytes | None) -> Pixels | None:
    return None if mask is None else unpack_pixels(mask)


def _packed(results: Sequence[Synthesis]) -> bytes:
    """Edits of one image, stacked, and its reconstruction once."""
    edited, masks = (np.stack([getattr(result, name) for result in results]) for name in ("edited", "mask"))
    arrays = {"edited": edited, "mask": masks, "reconstruction": results[0].reconstruction}
    return pack_arrays(arrays)
