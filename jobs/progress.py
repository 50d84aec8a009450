"""Progress: a live bar on a terminal, a plain line now and then elsewhere. Both go to standard error."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline.planning import Counts, Plan

_SECONDS_BETWEEN_LINES: Final = 10.0


class OnProgress(Protocol):
    """Takes the counts so far."""

    def __call__(self, counts: Counts) -> None: ...


@contextmanager
def progress(plan: Plan) -> Iterator[OnProgress]:
    """Show how far a job is, for as long as the context lasts."""
    console = Console(stderr=True)
    with _bar(plan, console) if console.is_terminal else _lines(plan) as update:
        yield update


@contextmanager
def _bar(plan: Plan, console: Console) -> Iterator[OnProgress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("[red]{task.fields[failed]}"),
    )
    began = time.monotonic()
    with Progress(*columns, console=console, transient=True) as bar:
        images = bar.add_task("images", total=len(plan.images), rate="", failed="")
        edits = bar.add_task("edits", total=plan.edits, rate="", failed="", visible=plan.edits > 0)

        def update(counts: Counts) -> None:
            seconds = time.monotonic() - began
            bar.update(
                images,
                completed=counts.images,
                rate=_rate(counts.inverted, seconds),
                failed=_failed(counts.images_failed),
            )
            bar.update(
                edits, completed=counts.edits, rate=_rate(counts.edited, seconds), failed=_failed(counts.edits_failed)
            )

        yield update


@contextmanager
def _lines(plan: Plan) -> Iterator[OnProgress]:
    began = time.monotonic()
    latest = Counts()
    ended = threading.Event()

    def update(counts: Counts) -> None:
        nonlocal latest
        latest = counts

    def report() -> None:
        while not ended.wait(_SECONDS_BETWEEN_LINES):
            typer.echo(_line(plan, latest, time.monotonic() - began), err=True)

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield update
    finally:
        ended.set()
        reporter.join()


def _line(plan: Plan, counts: Counts, seconds: float) -> str:
    total = len(plan.images) + plan.edits
    done = counts.images + counts.edits
    eta = f"{seconds * (total - done) / done:.0f} s left" if done else "starting"
    return (
        f"[{seconds:.0f} s] images {counts.images}/{len(plan.images)}, edits {counts.edits}/{plan.edits}, "
        f"failures {counts.failures}, {_rate(counts.edited, seconds)}, {eta}"
    )


def _rate(count: int, seconds: float) -> str:
    return f"{count / max(seconds, 1e-9):.2f}/s"


def _failed(count: int) -> str:
    return f"{count} failed" if count else ""
