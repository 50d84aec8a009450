"""The first stage: bytes, identity, what is missing. All that can be refused without a model is refused here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Final

from pipeline.config import JobConfig
from pipeline.errors import RowError
from pipeline.io.images import Photo, check_mask_shape, decode, decode_mask
from pipeline.io.outcomes import EditIndex, InversionIndex, read_inversion
from pipeline.io.sources import Memory
from pipeline.keys import content_key, edit_key, inversion_key, seed_of
from pipeline.planning import Asking
from pipeline.records import Edit
from pipeline.settings import Controls
from pipeline.stages.escalation import escalation_identity
from pipeline.stages.history import History
from pipeline.stages.rows import NOTHING, Asked, Fetched, Order, Payloads, dump, load_seen
from pipeline.stages.source import OutdatedError, Source
from pipeline.stages.visit import Visit

_THREADS: Final = 16
_ARTIFACT_COLUMNS: Final = (
    "source_prompt",
    "settings",
    "width",
    "height",
    "vae_psnr",
    "recon_psnr",
    "iterations",
    "converged",
    "escalated",
    "seconds",
)


@dataclass(frozen=True, slots=True)
class Committed:
    """What the output holds already; inversions may come from an earlier output."""

    inversions: InversionIndex
    edits: EditIndex
    history: History
    sources: Memory


class Fetch:
    """Fetch images and find out what is left to do for each.

    Args:
        config: of the job.
        asking: the prompts; none to make artifacts only.
        fingerprint: of the model.
        committed: what is there already.
    """

    def __init__(self, config: JobConfig, asking: Asking, fingerprint: str, committed: Committed) -> None:
        self._config = config
        self._asking = asking
        self._fingerprint = fingerprint
        self._committed = committed

    def __call__(self, rows: Sequence[Asked]) -> list[Fetched]:
        return self.with_done_rows_as_one(self.each(rows))

    def each(self, rows: Sequence[Asked]) -> list[Fetched]:
        """One row for each that is asked for."""
        recalled = self._committed.sources.recall({uri for row in rows for uri in _deciding(row)})
        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(lambda row: self._fetch(row, recalled), rows))

    def failed(self, row: Asked, error: Exception) -> Fetched:
        """What becomes of a row that ends the process that fetches it."""
        visit = Visit.to(row, self._config.max_pixels, {})
        visit.fail(error, edits=len(self._asking.of(visit.image)[0]))
        return visit.result("failed")

    def _fetch(self, row: Asked, recalled: Mapping[str, str]) -> Fetched:
        visit = Visit.to(row, self._config.max_pixels, recalled)
        try:
            visit.asked, refused = self._asking.of(visit.image)
            for edit, error in refused:
                visit.fail(error, edit)
            return self._follow(visit)
        except OutdatedError:
            return self._fetch(row, {})
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a row costs that row
            visit.fail(error, tried=visit.tried, edits=len(visit.asked))
            return visit.result("failed")

    def _follow(self, visit: Visit) -> Fetched:
        """From an image's bytes to its keys to what is missing, stopping as soon as there is nothing to do."""
        self._identify(visit)
        self._stop_if_standing(visit, visit.inversion_key)
        mask = self._mask(visit)
        orders = [self._order(visit, edit, mask) for edit in visit.asked]
        missing = [order for order in orders if not self._is_there(visit, order)]
        standing = {order.key: error for order in missing if (error := self._standing(visit, order))}
        todo = [order for order in missing if order.key not in standing]
        invert = visit.inversion_key not in self._committed.inversions
        named = self._committed.inversions.has_row(visit.inversion_key, visit.image.image_id)
        work = bool(todo) or not named
        payloads = self._payloads(visit, mask, invert=invert) if work else NOTHING
        for order in missing:
            if order.key in standing:
                visit.fail(standing[order.key], order.edit, order.key)
        return visit.result("work" if work else "done", todo, len(orders) - len(missing), payloads, named=named)

    def _identify(self, visit: Visit) -> None:
        """Set the image's keys: those of its artifact, or those of its bytes."""
        if "inversion_key" in visit.row:
            visit.image_sha256, visit.inversion_key = visit.row["image_sha256"], visit.row["inversion_key"]
            return
        visit.image_sha256 = visit.original.sha256
        self._stop_if_standing(visit, visit.image_sha256)
        visit.inversion_key = inversion_key(
            image_sha256=visit.image_sha256,
            source_prompt=visit.image.source_prompt or "",
            model_fingerprint=self._fingerprint,
            settings=self._config.inversion.identity(),
            escalation=escalation_identity(self._config),
            max_side=self._config.max_side,
            dtype=self._config.dtype,
        )

    def _stop_if_standing(self, visit: Visit, tried: str) -> None:
        visit.tried = tried
        standing = self._committed.history.standing(tried, visit.image.image_id)
        if standing:
            raise standing

    def _order(self, visit: Visit, edit: Edit, mask: Source | None) -> Order:
        settings = self._config.edit
        fitted = visit.row.get("fitted_scale", self._config.inversion.guidance_scale)
        controls = settings.controls(edit)
        key = edit_key(
            inversion_key=visit.inversion_key,
            image_id=visit.image.image_id,
            edit_id=edit.edit_id,
            prompt=edit.deltas or edit.prompt,
            negative_prompt=edit.negative_prompt,
            strength=edit.strength,
            guidance_scale=None if edit.guidance_scale == fitted else edit.guidance_scale,
            **asdict(controls),
            seed=edit.seed if controls.variation else None,
            mask_sha256=None if mask is None else mask.sha256,
            settings=settings.model_dump(exclude=set(Controls.__slots__)),
        )
        seed = seed_of(key) if edit.seed is None else edit.seed
        replaces = self._committed.edits.in_place_of(key, visit.image.image_id, edit.edit_id, edit.strength)
        return Order(edit, key, seed if controls.variation else None, replaces)

    def _is_there(self, visit: Visit, order: Order) -> bool:
        """Whether the edit is committed. If another one failed in its place since, its picture may be gone."""
        edit = order.edit
        failed_since = self._committed.history.failed(visit.image.image_id, edit.edit_id, edit.strength)
        return order.key in self._committed.edits and not failed_since

    def _standing(self, visit: Visit, order: Order) -> RowError | None:
        """Why this very edit failed for good before; it then fails again without being tried."""
        edit = order.edit
        return self._committed.history.standing(order.key, visit.image.image_id, edit.edit_id, edit.strength)

    def _mask(self, visit: Visit) -> Source | None:
        return None if not visit.asked or self._config.edit.mask == "none" else visit.mask

    def _payloads(self, visit: Visit, mask: Source | None, *, invert: bool) -> Payloads:
        """What the engine and the compositing need: checked pictures, and the artifact where there is one."""
        wanted = invert or self._config.edit.composite == "full"
        original = self._checked_original(visit) if wanted else None
        photo = None if original is None else decode(original, self._config.max_pixels)
        if mask is not None:
            self._check_mask(visit, mask, photo)
        frames = None if photo is None else photo.frames
        data = None if mask is None else mask.data
        if invert:
            return Payloads(original=original, mask=data, frames=frames, artifact=None, tensors=None)
        artifact = read_inversion(self._committed.inversions, visit.inversion_key)
        columns = json.dumps({name: artifact.get(name) for name in _ARTIFACT_COLUMNS})
        return Payloads(original=original, mask=data, frames=frames, artifact=columns, tensors=artifact["tensors"])

    def _checked_original(self, visit: Visit) -> bytes:
        original = visit.original.data
        visit.tried = visit.original.sha256
        if visit.tried != visit.image_sha256:
            raise RowError(
                "original_changed",
                f"{visit.image.image_uri}: expected sha256 {visit.image_sha256}, as inverted; got {visit.tried}",
            )
        return original

    def _check_mask(self, visit: Visit, mask: Source, photo: Photo | None) -> None:
        visit.tried = content_key({"image": visit.image_sha256, "mask": mask.sha256})
        decoded = decode_mask(mask.data, self._config.max_pixels)
        if photo is not None:
            check_mask_shape(decoded, photo)

    def with_done_rows_as_one(self, rows: Sequence[Fetched]) -> list[Fetched]:
        """Let one row stand for all that need nothing and have nothing to say: the engine's batches are for work."""
        idle = [row for row in rows if self._is_idle(row)]
        others = [row for row in rows if not self._is_idle(row)]
        for row in idle[1:]:
            idle[0]["reused"] += row["reused"]
            idle[0]["kept"] += row["kept"]
        if idle:
            idle[0]["seen"] = dump([seen for row in idle for seen in load_seen(row["seen"])])
        return [*idle[:1], *others]

    def _is_idle(self, row: Fetched) -> bool:
        recovered = self._committed.history.failed(row["image_id"])
        return row["status"] == "done" and row["failures"] == dump([]) and not recovered


def _deciding(row: Asked) -> list[str]:
    """The files whose content decides what is missing; of an image's, its artifact tells."""
    uris = [row["mask_uri"], None if "inversion_key" in row else row["image_uri"]]
    return [uri for uri in uris if uri]
