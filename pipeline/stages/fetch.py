"""The first stage: bytes, identity, what is missing. All that can be refused without a model is refused here."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Literal, cast

from pipeline.asking import Asking
from pipeline.config import JobConfig
from pipeline.errors import RowError
from pipeline.io.outcomes import EditIndex, InversionIndex
from pipeline.io.sources import Memory
from pipeline.keys import seed_of
from pipeline.records import Edit
from pipeline.stages.history import History
from pipeline.stages.naming import JobKeys
from pipeline.stages.prepare import Prepare, WorkingSize
from pipeline.stages.rows import NOTHING, Asked, Fetched, Order, Payloads, dump, load_seen
from pipeline.stages.source import OutdatedError, Source
from pipeline.stages.visit import Visit

_THREADS: Final = 16


@dataclass(frozen=True, slots=True)
class Committed:
    """What the output holds already; inversions may come from an earlier output."""

    inversions: InversionIndex
    edits: EditIndex
    history: History
    sources: Memory


@dataclass(frozen=True, slots=True)
class _Missing:
    """What an output lacks of one image.

    Attributes:
        todo: edits to make.
        standing: edits that are not tried again, and why.
        kept: edits that are there.
        invert: whether its inversion is missing.
        named: whether a row among the artifacts has its id.
    """

    todo: list[Order]
    standing: list[tuple[Order, RowError]]
    kept: int
    invert: bool
    named: bool

    @property
    def work(self) -> bool:
        """Whether the engine has something to do."""
        return bool(self.todo) or not self.named


class Fetch:
    """Fetch images and find out what is left to do for each.

    Args:
        config: of the job.
        asking: the prompts; none to make artifacts only.
        fingerprint: of the model.
        committed: what is there already.
        working_size: of the model.
    """

    def __init__(
        self, config: JobConfig, asking: Asking, fingerprint: str, committed: Committed, working_size: WorkingSize
    ) -> None:
        self._config = config
        self._asking = asking
        self._keys = JobKeys(config, fingerprint)
        self._committed = committed
        self._prepare = Prepare(config, committed.inversions, working_size)

    def __call__(self, rows: Sequence[Asked]) -> list[Fetched]:
        done, others = self.done(rows)
        return self.with_done_rows_as_one([*done, *self.each(others)])

    def done(self, rows: Sequence[Asked]) -> tuple[list[Fetched], list[Asked]]:
        """Find, reading no file, rows that need nothing, as most of a nightly job's do: one for all; and the others."""
        recalled = self._recalled(rows)
        keyed = [(row, keys) for row in rows if (keys := self._keys_of(row, recalled))]
        inversions, image_ids = [keys[0] for _, keys in keyed], [row["image_id"] for row, _ in keyed]
        whole = self._committed.inversions.holds(inversions) & self._committed.inversions.have_rows(
            inversions, image_ids
        )
        edited = iter(self._committed.edits.holds([key for _, keys in keyed for key in keys[1:]]).tolist())
        done = {
            row["image_id"]: len(keys) - 1
            for (row, keys), is_whole in zip(keyed, whole.tolist(), strict=True)
            if all(list(itertools.islice(edited, len(keys) - 1))) and is_whole
        }
        if not done:
            return [], list(rows)
        first = Visit.to(next(row for row in rows if row["image_id"] in done), self._config.max_pixels, recalled)
        idle = first.result("done", kept=sum(done.values()), reused=len(done), named=True)
        return [idle], [row for row in rows if row["image_id"] not in done]

    def _keys_of(self, row: Asked, recalled: Mapping[str, str]) -> list[str] | None:
        """The keys of an image's inversion and edits; None if a file has to be read for them, or something is wrong."""
        if self._committed.history.mentions(row["image_id"]) or not all(uri in recalled for uri in _deciding(row)):
            return None
        visit = Visit.to(row, self._config.max_pixels, recalled)
        try:
            visit.asked, refused = self._asking.of(visit.columns)
            self._identify(visit)
            mask = self._mask(visit)
            return (
                None if refused else [visit.inversion_key, *(self._edit_key(visit, edit, mask) for edit in visit.asked)]
            )
        except Exception:  # noqa: BLE001 - it shows again, and is told, when the row is fetched
            return None

    def each(self, rows: Sequence[Asked]) -> list[Fetched]:
        """One row for each that is asked for."""
        recalled = self._recalled(rows)
        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(lambda row: self._fetch(row, recalled), rows))

    def _recalled(self, rows: Sequence[Asked]) -> Mapping[str, str]:
        return self._committed.sources.recall({uri for row in rows for uri in _deciding(row)})

    def failed(self, row: Asked, error: Exception) -> Fetched:
        """What becomes of a row that ends the process that fetches it."""
        visit = Visit.to(row, self._config.max_pixels, {})
        visit.fail(error, edits=len(self._asking.of(visit.columns)[0]))
        return visit.result("failed")

    def _fetch(self, row: Asked, recalled: Mapping[str, str]) -> Fetched:
        visit = Visit.to(row, self._config.max_pixels, recalled)
        try:
            return self._follow(visit)
        except OutdatedError:
            return self._fetch(row, {})
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a row costs that row
            visit.fail(error, tried=visit.tried, edits=len(visit.asked))
            return visit.result("failed")

    def _follow(self, visit: Visit) -> Fetched:
        missing = self._missing(visit)
        payloads = self._payloads(visit, missing)
        for order, error in missing.standing:
            visit.fail(error, order.edit, order.key)
        status: Literal["work", "done"] = "work" if missing.work else "done"
        return visit.result(status, missing.todo, missing.kept, payloads, named=missing.named)

    def _payloads(self, visit: Visit, missing: _Missing) -> Payloads:
        return self._prepare(visit, self._mask(visit), invert=missing.invert) if missing.work else NOTHING

    def _missing(self, visit: Visit) -> _Missing:
        """From an image's bytes to its keys to what is missing.

        Raises:
            RowError: they cannot be read, or the image is known to fail.
        """
        visit.asked, refused = self._asking.of(visit.columns)
        for edit, error in refused:
            visit.fail(error, edit)
        self._identify(visit)
        self._stop_if_standing(visit, visit.inversion_key)
        mask = self._mask(visit)
        todo, standing, kept = [], [], 0
        for edit in visit.asked:
            key = self._edit_key(visit, edit, mask)
            if self._is_there(visit, edit, key):
                kept += 1
                continue
            order = self._order(visit, edit, key)
            failed = self._committed.history.standing(key, visit.image_id, edit.edit_id, edit.strength)
            if failed is None:
                todo.append(order)
            else:
                standing.append((order, failed))
        invert = visit.inversion_key not in self._committed.inversions
        named = not invert and self._committed.inversions.has_row(visit.inversion_key, visit.image_id)
        return _Missing(todo, standing, kept, invert, named)

    def _identify(self, visit: Visit) -> None:
        """Set the image's keys: those of its artifact, or those of its bytes."""
        if "inversion_key" in visit.row:
            visit.image_sha256, visit.inversion_key = visit.row["image_sha256"], visit.row["inversion_key"]
            return
        visit.image_sha256 = visit.original.sha256
        self._stop_if_standing(visit, visit.image_sha256)
        visit.inversion_key = self._keys.inversion(visit.image_sha256, visit.row["source_prompt"])

    def _stop_if_standing(self, visit: Visit, tried: str) -> None:
        visit.tried = tried
        standing = self._committed.history.standing(tried, visit.image_id)
        if standing:
            raise standing

    def _edit_key(self, visit: Visit, edit: Edit, mask: Source | None) -> str:
        fitted = visit.row.get("fitted_scale", self._config.inversion.guidance_scale)
        mask_sha256 = None if mask is None else mask.sha256
        return self._keys.edit(edit, visit.inversion_key, visit.image_id, fitted, mask_sha256)

    def _order(self, visit: Visit, edit: Edit, key: str) -> Order:
        seed = seed_of(key) if edit.seed is None else edit.seed
        varies = self._config.edit.controls(edit).variation
        replaces = self._committed.edits.in_place_of(key, visit.image_id, edit.edit_id, edit.strength)
        return Order(edit, key, seed if varies else None, replaces)

    def _is_there(self, visit: Visit, edit: Edit, key: str) -> bool:
        """Whether the edit is committed. If another one failed in its place since, its picture may be gone."""
        failed_since = self._committed.history.failed(visit.image_id, edit.edit_id, edit.strength)
        return key in self._committed.edits and not failed_since

    def _mask(self, visit: Visit) -> Source | None:
        return visit.mask if visit.asked else None

    def with_done_rows_as_one(self, rows: Sequence[Fetched]) -> list[Fetched]:
        """Let one row stand for all that need nothing and have nothing to say: the engine's batches are for work."""
        idle: list[Fetched] = []
        others: list[Fetched] = []
        for row in rows:
            (idle if self._is_idle(row) else others).append(row)
        if not idle:
            return others
        seen = [seen for row in idle if row["seen"] != "[]" for seen in load_seen(row["seen"])]
        first = {
            "reused": sum(row["reused"] for row in idle),
            "kept": sum(row["kept"] for row in idle),
            "seen": dump(seen),
        }
        return [cast("Fetched", {**idle[0], **first}), *others]

    def _is_idle(self, row: Fetched) -> bool:
        done = row["status"] == "done" and row["failures"] == "[]"
        return done and not self._committed.history.failed(row["image_id"])


def _deciding(row: Asked) -> list[str]:
    """The files whose content decides what is missing; of an image's, its artifact tells."""
    uris = [row["mask_uri"], None if "inversion_key" in row else row["image_uri"]]
    return [uri for uri in uris if uri]
