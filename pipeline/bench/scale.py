"""How the job scales: planning, finding out what is missing, the driver's memory, files; on manifests of many rows.

An engine stand-in of known cost is in the engine's place (`pipeline/bench/stand_in.py`); all else is the real job.
"""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import ray

from pipeline.bench.scale_report import ScaleReport, Size
from pipeline.cluster import spans
from pipeline.cluster.execution import execute, fetch_of
from pipeline.cluster.session import connect
from pipeline.config import JobConfig
from pipeline.counts import Counts
from pipeline.io.listing import list_sizes
from pipeline.io.outcomes import current_failures
from pipeline.io.storage import join
from pipeline.planning import read_plan
from pipeline.quality.speed.resident import resident_peak
from pipeline.stages.history import History

if TYPE_CHECKING:
    from pipeline.stages.engine import Engine

_T = TypeVar("_T")

KINDS: Final = ("inversions", "edits", "sources")


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
    from pipeline.bench.catalogue import write_catalogue  # and with it torch, which a driver has no use for

    config = config.model_copy(update={"dtype": "float32"})  # which keys have to know before there is a cluster
    sizes = []
    for count in sorted(rows):
        with tempfile.TemporaryDirectory(prefix="relatent-scale-") as folder:
            new = max(1, round(new_share * count))
            say(f"{count:,} rows: writing a catalogue of which {count - new:,} are done")
            job = _apart(write_catalogue, Path(folder), count, new, config)
            say(f"{count:,} rows: running the job over it, twice")
            tables = _tables(str(job.output))
            first, again = (_apart(_run, job, row_seconds, Path(folder) / name) for name in ("first", "again"))
            assert (first.counts.inverted, again.counts.inverted, again.counts.edited) == (new, 0, 0)
            sizes.append(_size(tables, first, again, str(job.output)))
    return ScaleReport(f"{platform.machine()}, {len(os.sched_getaffinity(0))} CPUs", row_seconds, sizes)


def _apart(call: Callable[..., _T], *args: Any) -> _T:
    """The result of a call in a new process, whose memory is nobody else's."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(call, *args).result()


@dataclass(frozen=True, slots=True)
class _Run:
    """One run of the job, in a process of its own; seconds and memory as in `Size`."""

    counts: Counts
    planning_s: float
    index_s: float
    finding_s: float
    ray_s: float
    job_s: float
    cpu_s: float
    driver_mb: float | None
    libraries_mb: float | None


def _run(config: JobConfig, row_seconds: float, noted: Path) -> _Run:
    with resident_peak() as libraries:
        pass
    noted.mkdir()
    with resident_peak() as peak, spans.noted(noted):
        began = time.perf_counter()
        plan = read_plan("run", config)
        planned = time.perf_counter()
        connect(config, len(plan.images))
        connected = time.perf_counter()
        fetch_of(plan, History(current_failures(plan.output)))
        indexed, computed = time.perf_counter(), _computed_s()
        try:
            counts = execute(plan, _nobody, load=_LoadStandIn(row_seconds))
            done, cpu_s = time.perf_counter(), _computed_s() - computed
        finally:
            ray.shutdown()
    assert (counts.images, counts.edits, counts.failures) == (len(plan.images), plan.edits, 0), counts
    looks = [span for span in spans.read(noted) if span.stage == "fetch"]
    return _Run(
        counts=counts,
        planning_s=planned - began,
        index_s=indexed - connected,
        finding_s=max(span.ended for span in looks) - min(span.began for span in looks),
        ray_s=connected - planned,
        job_s=done - indexed,
        cpu_s=cpu_s,
        driver_mb=peak.mb,
        libraries_mb=libraries.mb,
    )


def _size(tables: Mapping[str, Mapping[str, int]], first: _Run, again: _Run, output: str) -> Size:
    after = _tables(output)
    return Size(
        rows=first.counts.images,
        edits=first.counts.edits,
        inverted=first.counts.inverted,
        edited=first.counts.edited,
        planning_s=again.planning_s,
        index_s=again.index_s,
        finding_s=again.finding_s,
        ray_s=again.ray_s,
        job_s=first.job_s,
        again_s=again.job_s,
        again_cpu_s=again.cpu_s,
        driver_mb=_most(first.driver_mb, again.driver_mb),
        libraries_mb=first.libraries_mb,
        tables={kind: {**of, "added": after[kind]["files"] - of["files"]} for kind, of in tables.items()},
    )


def _most(*values: float | None) -> float | None:
    return max((value for value in values if value is not None), default=None)


@dataclass(frozen=True, slots=True)
class _LoadStandIn:
    """Loads a stand-in, in the place of the job's model."""

    row_seconds: float

    def __call__(self, config: JobConfig, *_: Any, **__: Any) -> Engine:
        from pipeline.bench.stand_in import StandInEditor, engine_around  # and with it the model's libraries

        return engine_around(StandInEditor(self.row_seconds), config)


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
