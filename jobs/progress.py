"""Progress on standard error: a live bar on a terminal, a plain line now and then elsewhere; or the log's lines."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from jobs.log import tell_counts
from jobs.report import duration
from pipeline.counts import Counts
from pipeline.estimate import work_of
from pipeline.planning import Plan

_SECONDS_BETWEEN_LINES: Final = 10.0


class OnProgress(Protocol):
    """Takes the counts so far."""

    def __call__(self, counts: Counts) -> None: ...


@contextmanager
def progress(plan: Plan) -> Iterator[OnProgress]:
    """Show how far a job is, for as long as the context lasts."""
    console = Console(stderr=True)
    live = console.is_terminal and not plan.config.log_json
    with _bar(plan, console) if live else _lines(plan) as update:
        yield update


@contextmanager
def _bar(plan: Plan, console: Console) -> Iterator[OnProgress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[rate]}  {task.fields[left]}  [red]{task.fields[failed]}"),
    )
    began = time.monotonic()
    with Progress(*columns, console=console, transient=True) as bar:
        images, edits = (
            bar.add_task(name, total=total, visible=total > 0, rate="", left="starting", failed="")
            for name, total in (("images", len(plan.images)), ("edits", plan.edits))
        )

        def update(counts: Counts) -> None:
            seconds = time.monotonic() - began
            left = _left(plan, counts, seconds)
            for task, completed, made, failed in (
                (images, counts.images, counts.inverted, counts.images_failed),
                (edits, counts.edits, counts.edited, counts.edits_failed),
            ):
                told = f"{failed} failed" if failed else ""
                bar.update(task, completed=completed, rate=_rate(made, seconds), left=left, failed=told)

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
            if plan.config.log_json:
                tell_counts("progress", latest)
            else:
                typer.echo(_line(plan, latest, time.monotonic() - began), err=True)

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield update
    finally:
        ended.set()
        reporter.join()


def _line(plan: Plan, counts: Counts, seconds: float) -> str:
    return (
        f"[{seconds:.0f} s] images {counts.images}/{len(plan.images)}, edits {counts.edits}/{plan.edits}, "
        f"failures {counts.failures}, inverted {_rate(counts.inverted, seconds)}, "
        f"edited {_rate(counts.edited, seconds)}, {_left(plan, counts, seconds)}"
    )


def _left(plan: Plan, counts: Counts, seconds: float) -> str:
    """How long the rest takes, at most, at the speed of what was made now; what was there already took no time."""
    inversion, edit = work_of(plan)
    made = counts.inverted * inversion + counts.edited * edit
    images = 0 if plan.command == "edit" else len(plan.images) - counts.images
    rest = images * inversion + (plan.edits - counts.edits) * edit
    return f"{duration(seconds * rest / made)} left" if made else "starting"


def _rate(count: int, seconds: float) -> str:
    return f"{count / max(seconds, 1e-9):.2f}/s"
