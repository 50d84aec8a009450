"""The first stage: bytes, identity, what is missing. All that can be refused without a model is refused here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Final, Literal

from pipeline.config import JobConfig
from pipeline.errors import RowError
from pipeline.io.images import Photo, check_mask_shape, decode, decode_mask
from pipeline.io.outcomes import EditIndex, KeyIndex, read_inversion
from pipeline.io.storage import StorageError, TooLargeError, read_bytes
from pipeline.keys import artifact_row_key, content_key, edit_key, inversion_key, seed_of, sha256_hex
from pipeline.planning import Asking
from pipeline.records import Edit, Failure, ImageRow
from pipeline.settings import Controls
from pipeline.stages.escalation import escalation_identity
from pipeline.stages.history import History
from pipeline.stages.rows import NOTHING, Asked, FailedRow, Fetched, Order, Payloads, dump, image_columns

_THREADS: Final = 16
# A file of more than its largest picture without compression, and what describes it, is not read.
_BYTES_PER_PIXEL: Final = 4
_METADATA_BYTES: Final = 64 << 20
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

    inversions: KeyIndex
    artifact_rows: frozenset[str]
    edits: EditIndex
    history: History


@dataclass(slots=True)
class _Visit:
    """One image on its way through the stage, and what has been found out about it."""

    row: Asked
    image: ImageRow
    asked: list[Edit] = field(default_factory=list)
    failures: list[FailedRow] = field(default_factory=list)
    image_sha256: str = ""
    inversion_key: str = ""
    tried: str | None = None  # identity of what the current step was given

    def fail(self, error: Exception, edit: Edit | None = None, tried: str | None = None, edits: int = 1) -> None:
        failure = Failure.of(error, self.image.image_id, edit)
        self.failures.append(FailedRow(failure, self.image.image_uri, tried, edits))

    def result(
        self,
        status: Literal["work", "done", "failed"],
        orders: Sequence[Order] = (),
        kept: int = 0,
        payloads: Payloads = NOTHING,
        *,
        named: bool = False,
    ) -> Fetched:
        return Fetched(
            **image_columns(self.row),
            status=status,
            image_sha256=self.image_sha256,
            inversion_key=self.inversion_key,
            **payloads,
            named=named,
            orders=dump(orders),
            reused=int(status == "done"),
            kept=kept,
            failures=dump(self.failures),
        )


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
        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(self._fetch, rows))

    def failed(self, row: Asked, error: Exception) -> Fetched:
        """What becomes of a row that ends the process that fetches it."""
        visit = _Visit(row, _image(row))
        visit.fail(error, edits=len(self._asking.of(visit.image)[0]))
        return visit.result("failed")

    def _fetch(self, row: Asked) -> Fetched:
        visit = _Visit(row, _image(row))
        try:
            visit.asked, refused = self._asking.of(visit.image)
            for edit, error in refused:
                visit.fail(error, edit)
            return self._follow(visit)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a row costs that row
            visit.fail(error, tried=visit.tried, edits=len(visit.asked))
            return visit.result("failed")

    def _follow(self, visit: _Visit) -> Fetched:
        """From an image's bytes to its keys to what is missing, stopping as soon as there is nothing to do."""
        original = self._identify(visit)
        self._stop_if_standing(visit, visit.inversion_key)
        mask = self._mask(visit)
        orders = [self._order(visit, edit, mask) for edit in visit.asked]
        missing = [order for order in orders if not self._is_there(visit, order)]
        standing = {order.key: error for order in missing if (error := self._standing(visit, order))}
        todo = [order for order in missing if order.key not in standing]
        invert = visit.inversion_key not in self._committed.inversions
        named = artifact_row_key(visit.inversion_key, visit.image.image_id) in self._committed.artifact_rows
        work = bool(todo) or not named
        payloads = self._payloads(visit, original, mask, invert=invert) if work else NOTHING
        for order in missing:
            if order.key in standing:
                visit.fail(standing[order.key], order.edit, order.key)
        return visit.result("work" if work else "done", todo, len(orders) - len(missing), payloads, named=named)

    def _identify(self, visit: _Visit) -> bytes | None:
        """Set the image's keys: those of its artifact, or those of its bytes, which are then returned."""
        if "inversion_key" in visit.row:
            visit.image_sha256, visit.inversion_key = visit.row["image_sha256"], visit.row["inversion_key"]
            return None
        original = self._read(visit.image.image_uri, "image")
        visit.image_sha256 = sha256_hex(original)
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
        return original

    def _stop_if_standing(self, visit: _Visit, tried: str) -> None:
        visit.tried = tried
        standing = self._committed.history.standing(tried, visit.image.image_id)
        if standing:
            raise standing

    def _order(self, visit: _Visit, edit: Edit, mask: bytes | None) -> Order:
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
            mask_sha256=None if mask is None else sha256_hex(mask),
            settings=settings.model_dump(exclude=set(Controls.__slots__)),
        )
        seed = seed_of(key) if edit.seed is None else edit.seed
        replaces = self._committed.edits.in_place_of(key, visit.image.image_id, edit.edit_id, edit.strength)
        return Order(edit, key, seed if controls.variation else None, replaces)

    def _is_there(self, visit: _Visit, order: Order) -> bool:
        """Whether the edit is committed. If another one failed in its place since, its picture may be gone."""
        edit = order.edit
        failed_since = self._committed.history.failed(visit.image.image_id, edit.edit_id, edit.strength)
        return order.key in self._committed.edits and not failed_since

    def _standing(self, visit: _Visit, order: Order) -> RowError | None:
        """Why this very edit failed for good before; it then fails again without being tried."""
        edit = order.edit
        return self._committed.history.standing(order.key, visit.image.image_id, edit.edit_id, edit.strength)

    def _mask(self, visit: _Visit) -> bytes | None:
        uri = visit.image.mask_uri
        if uri is None or not visit.asked or self._config.edit.mask == "none":
            return None
        return self._read(uri, "mask")

    def _read(self, uri: str, kind: Literal["image", "mask"]) -> bytes:
        try:
            return read_bytes(uri, _BYTES_PER_PIXEL * self._config.max_pixels + _METADATA_BYTES)
        except TooLargeError as error:
            raise RowError("image_too_large" if kind == "image" else "mask_not_decodable", str(error)) from error
        except StorageError as error:
            raise RowError(f"{kind}_missing" if error.missing else "storage_unavailable", str(error)) from error

    def _payloads(self, visit: _Visit, original: bytes | None, mask: bytes | None, *, invert: bool) -> Payloads:
        """What the engine and the compositing need: checked pictures, and the artifact where there is one."""
        if invert or self._config.edit.composite == "full":
            original = self._checked_original(visit, original)
            photo = decode(original, self._config.max_pixels)
        else:
            original = photo = None
        if mask is not None:
            self._check_mask(visit, mask, photo)
        frames = None if photo is None else photo.frames
        if invert:
            return Payloads(original=original, mask=mask, frames=frames, artifact=None, tensors=None)
        artifact = read_inversion(self._committed.inversions, visit.inversion_key)
        columns = json.dumps({name: artifact.get(name) for name in _ARTIFACT_COLUMNS})
        return Payloads(original=original, mask=mask, frames=frames, artifact=columns, tensors=artifact["tensors"])

    def _checked_original(self, visit: _Visit, original: bytes | None) -> bytes:
        if original is None:
            original = self._read(visit.image.image_uri, "image")
        visit.tried = sha256_hex(original)
        if visit.tried != visit.image_sha256:
            raise RowError(
                "original_changed",
                f"{visit.image.image_uri}: expected sha256 {visit.image_sha256}, as inverted; got {visit.tried}",
            )
        return original

    def _check_mask(self, visit: _Visit, mask: bytes, photo: Photo | None) -> None:
        visit.tried = content_key({"image": visit.image_sha256, "mask": sha256_hex(mask)})
        decoded = decode_mask(mask, self._config.max_pixels)
        if photo is not None:
            check_mask_shape(decoded, photo)

    def with_done_rows_as_one(self, rows: Sequence[Fetched]) -> list[Fetched]:
        """Let one row stand for all that need nothing and have nothing to say: the engine's batches are for work."""
        idle = [row for row in rows if self._is_idle(row)]
        others = [row for row in rows if not self._is_idle(row)]
        for row in idle[1:]:
            idle[0]["reused"] += row["reused"]
            idle[0]["kept"] += row["kept"]
        return [*idle[:1], *others]

    def _is_idle(self, row: Fetched) -> bool:
        recovered = self._committed.history.failed(row["image_id"])
        return row["status"] == "done" and row["failures"] == dump([]) and not recovered


def _image(row: Asked) -> ImageRow:
    return ImageRow(
        image_id=row["image_id"],
        image_uri=row["image_uri"],
        source_prompt=row["source_prompt"],
        mask_uri=row["mask_uri"],
        **row.get("carried", {}),
    )
