"""How the job scales: planning, finding out what is missing, the driver's memory, files; on manifests of many rows.

An engine stand-in of known cost is in the engine's place (`pipeline/bench/stand_in.py`); all else is the real job.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import ray
import torch

from pipeline.bench.catalogue import write_catalogue
from pipeline.cluster import spans
from pipeline.cluster.execution import execute, fetch_of
from pipeline.cluster.session import connect
from pipeline.config import JobConfig
from pipeline.io.listing import list_sizes
from pipeline.io.outcomes import current_failures
from pipeline.io.storage import join
from pipeline.planning import Counts, read_plan
from pipeline.quality.speed.machine import describe, peak_memory
from pipeline.stages.history import History

if TYPE_CHECKING:
    from pipeline.stages.engine import Engine

_T = TypeVar("_T")

KINDS: Final = ("inversions", "edits", "sources")
_CPU: Final = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Size:
    """What a manifest of so many rows takes, of which the output lacks `new`.

    Attributes:
        edits: asked for, of all rows.
        inverted, edited: what the job made: what was missing.
        planning_s: seconds until manifests are read and checked.
        index_s: seconds until it is known what the output holds.
        finding_s: seconds, inside Ray, from the first row that is looked at to the last: the job once more, when
            nothing is missing.
        ray_s: seconds of Ray's own start.
        job_s: seconds of the job, plan and Ray's start apart.
        again_s: seconds of the same job once more.
        again_cpu_s: what all its processes computed meanwhile, on however many cores and beside whatever else.
        driver_mb: the driver's peak resident memory; `libraries_mb` before it read anything.
        tables: of each, files and bytes, as the job found them and as it left them.
    """

    rows: int
    new: int
    edits: int
    inverted: int
    edited: int
    planning_s: float
    index_s: float
    finding_s: float
    ray_s: float
    job_s: float
    again_s: float
    again_cpu_s: float
    driver_mb: float | None
    libraries_mb: float | None
    tables: Mapping[str, Mapping[str, int]]

    @property
    def planning_rate(self) -> float:
        """Rows a second."""
        return self.rows / self.planning_s

    @property
    def anti_join_rate(self) -> float:
        """Rows a second: to index what is there, and to find what is missing."""
        return self.rows / (self.index_s + self.finding_s)

    @property
    def again_us(self) -> float:
        """Microseconds of computing a row where nothing is missing; the plan and Ray's start apart."""
        return 1e6 * self.again_cpu_s / self.rows


@dataclass(frozen=True, slots=True)
class ScaleReport:
    """All sizes, the smallest first.

    Attributes:
        row_seconds: the stand-in's cost of an inversion, and of an edit.
    """

    machine: str
    row_seconds: float
    sizes: Sequence[Size]

    def as_json(self) -> dict[str, Any]:
        derived = ("planning_rate", "anti_join_rate", "again_us")
        sizes = [asdict(size) | {name: getattr(size, name) for name in derived} for size in self.sizes]
        return asdict(self) | {"sizes": sizes}

    def table(self) -> str:
        """The figures as Markdown."""
        heads = ("rows", "planning, rows/s", "anti-join, rows/s", "job, s", "again, s", "CPU, µs/row", "driver, MB")
        return "\n".join(
            [
                f"{self.machine}; engine stand-in of {self.row_seconds:g} s a row; Ray's start apart",
                "",
                f"| {' | '.join(heads)} |",
                "|---" * len(heads) + "|",
                *(
                    f"| {s.rows:,} | {s.planning_rate:,.0f} | {s.anti_join_rate:,.0f} | {s.job_s:.1f} "
                    f"| {s.again_s:.1f} | {s.again_us:.0f} | {_megabytes(s.driver_mb)} |"
                    for s in self.sizes
                ),
                "",
                *(line for size in self.sizes for line in _of_files(size)),
            ]
        )


def _megabytes(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _of_files(size: Size) -> list[str]:
    return [
        f"{size.rows:,} rows: {kind}: {of['files']} files of {of['bytes'] / max(of['files'], 1) / 1e6:.1f} MB, "
        f"and {of['added']} more"
        for kind, of in size.tables.items()
    ]


def measure_scale(
    rows: Sequence[int], new_share: float, row_seconds: float, config: JobConfig, say: Callable[[str], None]
) -> ScaleReport:
    """Run the job over manifests of so many rows, each of them, and its driver, in a process of its own.

    Args:
        rows: of each manifest.
        new_share: of them that the output lacks.
        row_seconds: what an inversion, or an edit, takes in the engine's stand-in.
        config: of the job.
        say: is told what goes on.
    """
    config = config.model_copy(update={"dtype": "float32"})  # which keys have to know before there is a cluster
    sizes = []
    for count in sorted(rows):
        with tempfile.TemporaryDirectory(prefix="relatent-scale-") as folder:
            new = max(1, round(new_share * count))
            say(f"{count:,} rows: writing a catalogue of which {count - new:,} are done")
            job = _apart(write_catalogue, Path(folder), count, new, config)
            say(f"{count:,} rows: running the job over it, twice")
            sizes.append(_apart(_measured, job, new, row_seconds, Path(folder) / "spans"))
    return ScaleReport(describe(_CPU, torch.float32), row_seconds, sizes)


def _apart(call: Callable[..., _T], *args: Any) -> _T:
    """The result of a call in a new process, whose memory is nobody else's."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(call, *args).result()


def _measured(config: JobConfig, new: int, row_seconds: float, noted: Path) -> Size:
    with peak_memory(_CPU) as libraries:
        pass
    noted.mkdir()
    with peak_memory(_CPU) as peak, spans.noted(noted):
        began = time.perf_counter()
        plan = read_plan("run", config)
        planned = time.perf_counter()
        connect(config)
        connected = time.perf_counter()
        fetch_of(plan, History(current_failures(plan.output)))
        indexed = time.perf_counter()
        tables = _tables(plan.output)
        try:
            first, job_s = _timed(lambda: execute(plan, _nobody, load=_LoadStandIn(row_seconds)))
            before, computed = len(spans.read(noted)), _computed_s()
            again, again_s = _timed(lambda: execute(plan, _nobody, load=_LoadStandIn(row_seconds)))
            again_cpu_s = _computed_s() - computed
        finally:
            ray.shutdown()
    looks = [span for span in spans.read(noted)[before:] if span.stage == "fetch"]
    assert (first.inverted, first.images) == (new, len(plan.images)), first
    assert (again.inverted, again.edited, again.kept) == (0, 0, plan.edits), again
    after = _tables(plan.output)
    return Size(
        rows=len(plan.images),
        new=new,
        edits=plan.edits,
        inverted=first.inverted,
        edited=first.edited,
        planning_s=planned - began,
        index_s=indexed - connected,
        finding_s=max(span.ended for span in looks) - min(span.began for span in looks),
        ray_s=connected - planned,
        job_s=job_s,
        again_s=again_s,
        again_cpu_s=again_cpu_s,
        driver_mb=peak.mb,
        libraries_mb=libraries.mb,
        tables={k: of | {"added": after[k]["files"] - of["files"]} for k, of in tables.items()},
    )


@dataclass(frozen=True, slots=True)
class _LoadStandIn:
    """Loads a stand-in, in the place of the job's model."""

    row_seconds: float

    def __call__(self, config: JobConfig, *_: Any, **__: Any) -> Engine:
        from pipeline.bench.stand_in import StandInEditor, engine_around  # and with it the model's libraries

        return engine_around(StandInEditor(self.row_seconds), config)


def _timed(call: Callable[[], Counts]) -> tuple[Counts, float]:
    began = time.perf_counter()
    return call(), time.perf_counter() - began


def _computed_s() -> float:
    """Seconds of CPU time of this process and of those that it started, directly or not (man 5 proc)."""
    stats = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            stats[int(stat.parent.name)] = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    ours, parents = set[int](), {os.getpid()}
    while parents:
        ours |= parents
        parents = {pid for pid, fields in stats.items() if int(fields[1]) in parents} - ours
    # Of itself and of the children that it has waited for, in user and in kernel mode.
    return sum(int(ticks) for pid in ours for ticks in stats[pid][11:15]) / os.sysconf("SC_CLK_TCK")


def _nobody(counts: Counts) -> None:
    """Progress, which nobody looks at."""


def _tables(output: str) -> dict[str, dict[str, int]]:
    sizes = {kind: list_sizes(join(output, kind), ".parquet").values() for kind in KINDS}
    return {kind: {"files": len(of), "bytes": sum(of)} for kind, of in sizes.items()}
