"""What a job tells Prometheus, through the endpoint that every Ray node has where `ray[default]` is installed.

Ray puts `ray_` before each name. Counts come from the driver, as results are committed; seconds, iterations and bytes
from the processes that spend them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Final, Literal

from ray.util.metrics import Counter, Gauge

from pipeline.cluster import spans
from pipeline.counts import Counts
from pipeline.io.transfers import transfers
from pipeline.stages.rows import Made

Stage = Literal["fetch", "invert", "edit", "publish"]

BUSY: Final = "relatent_busy_share"
# Name → what it counts, and its label. Seconds are a counter, since Ray's histograms keep no exact sums.
COUNTERS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "relatent_inverted_total": ("images inverted", ()),
    "relatent_edited_total": ("edits made", ()),
    "relatent_failures_total": ("images and edits that failed, by code", ("code",)),
    "relatent_iterations_total": ("gradient steps of fits", ()),
    "relatent_seconds_total": ("seconds of work: fetch, invert, edit, publish", ("stage",)),
    "relatent_bytes_total": ("bytes of files read whole (in) and written (out)", ("direction",)),
}


def count(counts: Counts) -> None:
    """Report what came of a part of the results."""
    _add("relatent_inverted_total", counts.inverted)
    _add("relatent_edited_total", counts.edited)
    for code, failures in counts.codes.items():
        _add("relatent_failures_total", failures, code=code)


@contextmanager
def stage(name: Stage) -> Iterator[None]:
    """Report the time that the context lasts, and the bytes that this process moves meanwhile."""
    began, before = time.time(), transfers()
    try:
        yield
    finally:
        _spend(name, began, time.time())
        for direction, total in transfers().items():
            _add("relatent_bytes_total", total - before[direction], direction=direction)


class Busy:
    """Reports how an engine actor spends its time, and the share of it since its first batch that it works."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._worked = 0.0

    def over(self, parts: Iterator[list[Made]]) -> Iterator[list[Made]]:
        """Pass on the parts of a batch: its inversions, then edits. What happens to a part meanwhile is no work."""
        began = time.time()
        self._began = began if self._began is None else self._began
        name: Stage = "invert"
        for part in parts:
            now = time.time()
            self._worked += now - began
            _spend(name, began, now)
            _busy_share().set(self._worked / (now - self._began))
            if name == "invert":
                _add("relatent_iterations_total", sum(map(_iterations, part)))
            yield part
            began, name = time.time(), "edit"


def _iterations(row: Made) -> int:
    """Those of a new inversion; an image that shares one with another has none of its own to count."""
    if row["inversion"] is None or row["reused"]:
        return 0
    return int(json.loads(row["inversion"])["iterations"])


def _spend(name: Stage, began: float, ended: float) -> None:
    _add("relatent_seconds_total", ended - began, stage=name)
    spans.add(name, began, ended)


def _add(name: str, value: float, **labels: str) -> None:
    if value > 0:
        _counter(name).inc(value, labels)


@cache
def _counter(name: str) -> Counter:
    description, labels = COUNTERS[name]
    return Counter(name, description, tag_keys=labels)


@cache
def _busy_share() -> Gauge:
    return Gauge(BUSY, "share of the time since its first batch that an engine actor works")
