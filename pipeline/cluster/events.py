"""Events of worker processes on their way to the driver, which tells them all in one stream."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pipeline.events import LOG


class _Collector(logging.Handler):
    """Keeps records as JSON."""

    def __init__(self, records: list[str]) -> None:
        super().__init__()
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        values = {name: getattr(record, name, None) for name in ("name", "levelno", "levelname", "created", "fields")}
        self._records.append(json.dumps(values | {"msg": record.getMessage()}, default=str))


@contextmanager
def collected(*, wanted: bool) -> Iterator[list[str]]:
    """The events that are told while the context lasts; none where they are not wanted."""
    records: list[str] = []
    if not wanted:
        yield records
        return
    handler, level = _Collector(records), LOG.level
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    try:
        yield records
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(level)


def tell(records: Sequence[str]) -> None:
    """Tell events that were collected elsewhere, with the time at which they happened."""
    for record in records:
        LOG.handle(logging.makeLogRecord(json.loads(record)))
