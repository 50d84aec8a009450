"""The last stage: pictures at full size, and the Parquet rows that commit them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from pipeline.config import JobConfig
from pipeline.counts import Counts
from pipeline.errors import JobError, RowError
from pipeline.events import tell_committed
from pipeline.io.artifacts import RECOVERED, Kind, write_rows
from pipeline.io.lease import Fence
from pipeline.io.storage import StorageError
from pipeline.records import Failure
from pipeline.stages.history import History
from pipeline.stages.pictures import Pictures
from pipeline.stages.rows import FailedRow, Made, Order, load_failures, load_orders, load_seen

_THREADS: Final = 8


@dataclass(frozen=True, slots=True)
class Identity:
    """What made the results; recorded with each artifact."""

    model_fingerprint: str
    version: str


@dataclass(slots=True)
class Written:
    """What came of one row's pictures, on its way to the tables."""

    edits: list[dict[str, Any]] = field(default_factory=list)
    failures: list[FailedRow] = field(default_factory=list)
    missing_scores: Mapping[str, str] = field(default_factory=dict)


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
        self.withdraw(rows)
        return self.commit(rows, self.write(rows))

    def withdraw(self, rows: Sequence[Made]) -> None:
        """Take back the edits whose pictures these rows' will replace."""
        self._commit("withdrawals", _withdrawals(rows))

    def write(self, rows: Sequence[Made]) -> list[Written]:
        """Write the rows' pictures, of which nobody knows before the commit."""
        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(self._write, rows))

    def commit(self, rows: Sequence[Made], parts: Sequence[Written]) -> Counts:
        """Commit what was written of each row, and count it."""
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

    def _write(self, row: Made) -> Written:
        """Write one image's pictures; what cannot be written is a failure of that edit."""
        part = Written(failures=load_failures(row["failures"]))
        if row["pictures"] is None:
            return part
        pictures = Pictures(row, self._config, self._identity.model_fingerprint, self._fence)
        for i, order in enumerate(load_orders(row["orders"])):
            try:
                part.edits.append(pictures.write(i, order))
            except JobError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever is wrong with an edit costs that edit
                part.failures.append(_failed(row, order, _as_row_error(error)))
        part.missing_scores = pictures.missing_scores
        return part

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

    def _new(self, part: Written) -> list[FailedRow]:
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


def unwritten(row: Made, error: Exception) -> Written:
    """A row all of whose pictures fail."""
    failed = [_failed(row, order, error) for order in load_orders(row["orders"])]
    return Written(failures=[*load_failures(row["failures"]), *failed])


def _failed(row: Made, order: Order, error: Exception) -> FailedRow:
    return FailedRow(Failure.of(error, row["image_id"], order.edit), row["image_uri"], order.key, edits=1)


def _withdrawals(rows: Sequence[Made]) -> list[dict[str, Any]]:
    """Rows that take back the edits whose pictures these ones' will replace."""
    now = datetime.now(UTC)
    return [
        {"image_id": row["image_id"], "edit_id": edit.edit_id, "strength": edit.strength, "created_at": now}
        for row in rows
        for edit in (order.edit for order in load_orders(row["orders"]) if order.replaces)
    ]


def _as_row_error(error: Exception) -> Exception:
    return RowError("publish_failed", str(error)) if isinstance(error, StorageError) else error


def _counts(row: Made, part: Written) -> Counts:
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
        missing_scores=dict(part.missing_scores),
    )
