"""The last stage: pictures at full size, and the Parquet rows that commit them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.config import JobConfig
from pipeline.diffusion.composite import composite_pixels, to_bytes
from pipeline.errors import JobError, RowError
from pipeline.events import tell_committed
from pipeline.io.artifacts import RECOVERED, Kind, write_rows
from pipeline.io.images import Photo, decode, encode_png, resize
from pipeline.io.layout import picture_uri
from pipeline.io.lease import Fence
from pipeline.io.storage import StorageError, write_bytes
from pipeline.io.tensors import unpack
from pipeline.keys import sha256_hex
from pipeline.planning import Counts
from pipeline.records import Failure
from pipeline.stages.flags import qa_flags
from pipeline.stages.history import History
from pipeline.stages.rows import FailedRow, Made, Order, load_failures, load_orders, load_seen

_THREADS: Final = 8
_Pixels = NDArray[np.uint8]
_Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Identity:
    """What made the results; recorded with each artifact."""

    model_fingerprint: str
    version: str


@dataclass(slots=True)
class _Part:
    """One row's results, on their way to the tables."""

    edits: list[dict[str, Any]] = field(default_factory=list)
    failures: list[FailedRow] = field(default_factory=list)


class Publish:
    """Write pictures, then commit what was written: inversions, edits, failures. The Parquet file is the commit.

    Last comes what the output is to remember of the files that were read.

    Edits whose pictures are about to be replaced are withdrawn first (infra/decisions/0012-commit-protocol.md).

    Args:
        config: of the job.
        identity: what made the results.
        history: what failed before; a failure that stands unchanged is not recorded again.
        fence: the right to write there.
    """

    def __init__(self, config: JobConfig, identity: Identity, history: History, fence: Fence) -> None:
        self._fence = fence
        self._config = config
        self._identity = identity
        self._history = history

    def __call__(self, rows: Sequence[Made]) -> Counts:
        self._commit("withdrawals", _withdrawals(rows))
        with ThreadPoolExecutor(_THREADS) as pool:
            parts = list(pool.map(self._publish, rows))
        now = datetime.now(UTC)
        inversions = [self._inversion(row, now) for row in rows if row["tensors"] is not None]
        self._commit("inversions", inversions)
        self._commit("edits", [edit | {"created_at": now} for part in parts for edit in part.edits])
        failures = [self._failure(f, row, now) for row, part in zip(rows, parts, strict=True) for f in self._new(part)]
        recoveries = [self._recovery(row, now) for row in rows if self._has_recovered(row)]
        self._commit("failures", [*failures, *recoveries])
        seen = [seen for row in rows for seen in load_seen(row["seen"])]
        self._commit("sources", [asdict(one) | {"created_at": now} for one in dict.fromkeys(seen)])
        tell_committed(inversions, [edit for part in parts for edit in part.edits], failures)
        return sum(map(_counts, rows, parts), Counts())

    def _commit(self, kind: Kind, rows: Sequence[dict[str, Any]]) -> None:
        if rows:
            self._fence.check()
            write_rows(self._fence.output, kind, [row | {"fence": self._fence.token} for row in rows])

    def _publish(self, row: Made) -> _Part:
        """Write one image's pictures; what cannot be written is a failure of that edit."""
        part = _Part(failures=load_failures(row["failures"]))
        orders = load_orders(row["orders"])
        if row["pictures"] is None:
            return part
        pictures = unpack(row["pictures"])
        photo = None if row["original"] is None else decode(row["original"], self._config.max_pixels)
        truncated: list[bool] = json.loads(row["truncated"])
        for i, order in enumerate(orders):
            edited, reconstruction, mask = (pictures[name][i] for name in ("edited", "reconstruction", "mask"))
            try:
                edit = self._edit(row, order, photo, edited, reconstruction, mask)
                flags = qa_flags(edit, self._config.qa_margin, truncated=truncated[i])
                part.edits.append(edit | {"qa_flags": flags})
            except JobError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever is wrong with an edit costs that edit
                failure = Failure.of(_as_row_error(error), row["image_id"], order.edit)
                part.failures.append(FailedRow(failure, row["image_uri"], order.key, edits=1))
        return part

    def _edit(
        self,
        row: Made,
        order: Order,
        photo: Photo | None,
        edited: torch.Tensor,
        reconstruction: torch.Tensor,
        mask: torch.Tensor,
    ) -> dict[str, Any]:
        """Composite, encode and write one picture → its row of the edits table."""
        assert row["inversion"] is not None
        inversion = json.loads(row["inversion"])
        edit = order.edit
        if photo is None or self._config.edit.composite == "none":
            pixels, alpha, background_psnr = to_bytes(edited).numpy(), None, None
        else:
            composited = composite_pixels(torch.from_numpy(photo.pixels), edited, reconstruction, mask)
            pixels, alpha = composited.numpy(), photo.alpha
            background_psnr = _background_psnr(photo.pixels, pixels, mask.numpy())
        provenance = {
            "model": row["model"],
            "model_fingerprint": self._identity.model_fingerprint,
            "prompt": edit.prompt,
            "strength": repr(edit.strength),
            "edit_key": order.key,
            "image_sha256": row["image_sha256"],
        }
        if edit.deltas:
            provenance["edits"] = json.dumps(edit.deltas)
        data = encode_png(pixels, alpha, provenance)
        uri = picture_uri(self._fence.output, row["image_id"], edit.edit_id, edit.strength)
        self._fence.check()
        write_bytes(uri, data)
        fitted = json.loads(inversion["settings"])["guidance_scale"]
        controls = self._config.edit.controls(edit)
        return {
            "edit_key": order.key,
            "image_id": row["image_id"],
            "edit_id": edit.edit_id,
            "strength": edit.strength,
            "inversion_key": row["inversion_key"],
            "image_uri": uri,
            "prompt": edit.prompt,
            "negative_prompt": edit.negative_prompt,
            "source_prompt": row["source_prompt"],
            "guidance_scale": fitted if edit.guidance_scale is None else edit.guidance_scale,
            "hold_structure": controls.hold_structure,
            "hold_self_attention": controls.hold_self_attention,
            "hold_cross_attention": controls.hold_cross_attention,
            "word_weights": json.dumps(controls.word_weights, ensure_ascii=False),
            "variation": controls.variation,
            "seed": order.seed,
            "width": pixels.shape[1],
            "height": pixels.shape[0],
            "sha256": sha256_hex(data),
            "background_psnr": background_psnr,
            "mask_coverage": float(mask.mean()),
            "recon_psnr": inversion["recon_psnr"],
            "vae_psnr": inversion["vae_psnr"],
            "converged": inversion["converged"],
            "seconds": row["seconds"],
            "carried": row.get("carried"),
        }

    def _inversion(self, row: Made, now: datetime) -> dict[str, Any]:
        assert row["inversion"] is not None
        return {
            "inversion_key": row["inversion_key"],
            "image_id": row["image_id"],
            "image_uri": row["image_uri"],
            "image_sha256": row["image_sha256"],
            **json.loads(row["inversion"]),
            "source_prompt": row["source_prompt"],
            "model": row["model"],
            "model_fingerprint": self._identity.model_fingerprint,
            "tensors": row["tensors"],
            "relatent_version": self._identity.version,
            "created_at": now,
            # So that edits from this artifact find the same mask.
            "carried": {"mask_uri": row["mask_uri"], **row.get("carried", {})},
        }

    def _new(self, part: _Part) -> list[FailedRow]:
        return [f for f in part.failures if not self._is_standing(f)]

    def _is_standing(self, row: FailedRow) -> bool:
        f = row.failure
        standing = self._history.standing(row.tried, f.image_id, f.edit_id, f.strength)
        return standing is not None and standing.code == f.code

    def _failure(self, failed: FailedRow, row: Made, now: datetime) -> dict[str, Any]:
        f = failed.failure
        return {
            **asdict(f),
            "attempts": self._history.attempts(f.image_id, f.edit_id, f.strength) + 1,
            "image_uri": failed.image_uri,
            "input_sha256": failed.tried,
            "created_at": now,
            "carried": row.get("carried"),
        }

    def _has_recovered(self, row: Made) -> bool:
        """Whether the image failed before, and has its artifact: then no new artifact says that it failed no more."""
        return row["reused"] > 0 and self._history.failed(row["image_id"])

    def _recovery(self, row: Made, now: datetime) -> dict[str, Any]:
        return {
            "image_id": row["image_id"],
            "stage": "fetch",
            "code": RECOVERED,
            "message": "no longer failing: its artifact is there",
            "retryable": False,
            "attempts": self._history.attempts(row["image_id"], None, None) + 1,
            "image_uri": row["image_uri"],
            "input_sha256": row["image_sha256"],
            "created_at": now,
            "carried": row.get("carried"),
        }


def _withdrawals(rows: Sequence[Made]) -> list[dict[str, Any]]:
    """Rows that take back the edits whose pictures these ones' will replace."""
    now = datetime.now(UTC)
    return [
        {"image_id": row["image_id"], "edit_id": edit.edit_id, "strength": edit.strength, "created_at": now}
        for row in rows
        for edit in (order.edit for order in load_orders(row["orders"]) if order.replaces)
    ]


def _background_psnr(original: _Pixels, published: _Pixels, mask: _Values) -> float | None:
    """PSNR in dB outside the mask; 100 where nothing changed, None where the mask leaves no outside."""
    height, width = original.shape[:2]
    outside = resize((mask * 255).round().astype(np.uint8), (width, height)) < 128
    if not outside.any():
        return None
    difference = (original[outside].astype(np.float64) - published[outside]) / 255
    return float(-10 * np.log10(max(np.square(difference).mean(), 1e-10)))


def _as_row_error(error: Exception) -> Exception:
    return RowError("publish_failed", str(error)) if isinstance(error, StorageError) else error


def _counts(row: Made, part: _Part) -> Counts:
    image_failures = [f for f in part.failures if f.failure.edit_id is None]
    inverted = row["tensors"] is not None and not row["reused"]
    return Counts(
        inverted=int(inverted),
        escalated=int(inverted and json.loads(row["inversion"] or "{}")["escalated"] is not None),
        reused=row["reused"],
        images_failed=len(image_failures),
        edited=len(part.edits),
        kept=row["kept"],
        edits_failed=sum(f.edits for f in part.failures),
        codes=dict(Counter(f.failure.code for f in part.failures)),
    )
