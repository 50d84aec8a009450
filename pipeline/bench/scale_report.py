"""The figures of `bench scale`, as a table, as JSON and as curves."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.errors import JobError

_SECONDS: Final = {
    "planning_s": "plan",
    "index_s": "index of what is there",
    "finding_s": "finding what is missing",
    "job_s": "job: what was new",
    "again_s": "job again: nothing is new",
}
_WANTED_RATE: Final = 20_000  # rows/s of the plan, and of the anti-join
_WANTED_MB: Final = 2000


@dataclass(frozen=True, slots=True)
class Size:
    """What a manifest of so many rows takes: the job, then the same again, when nothing is missing.

    Attributes:
        edits: asked for, of all rows.
        inverted, edited: what the first job made: what was missing.
        planning_s: seconds until manifests are read and checked.
        index_s: seconds until it is known what the output holds.
        finding_s: seconds, inside Ray, from the first row that is looked at to the last, when nothing is missing.
        ray_s: seconds of Ray's own start.
        job_s: seconds of the job, plan and Ray's start apart.
        again_s: the same of the second job.
        again_cpu_s: what all its processes computed meanwhile, on however many cores and beside whatever else.
        driver_mb: the driver's peak resident memory, shared pages among them; `libraries_mb` before it read anything.
        tables: of each, files and bytes, as the job found them and as it left them.
    """

    rows: int
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


def check_drawable() -> None:
    """Refuse what cannot be drawn before it is measured.

    Raises:
        JobError: matplotlib is not there.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise JobError("--plot: drawing needs matplotlib (pip install 'relatent[bench]')")


def draw(report: ScaleReport, path: Path) -> None:
    """Draw seconds, and the driver's memory, against rows; what is aimed at is dashed."""
    from matplotlib.figure import Figure

    rows = [size.rows for size in report.sizes]
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    seconds, memory = figure.subplots(1, 2)
    for name, label in _SECONDS.items():
        seconds.plot(rows, [getattr(size, name) for size in report.sizes], marker="o", label=label)
    seconds.plot(rows, [count / _WANTED_RATE for count in rows], "--", color="grey", label=f"{_WANTED_RATE:,} rows/s")
    seconds.set(xscale="log", yscale="log", xlabel="rows of the manifest", ylabel="seconds")
    seconds.legend(fontsize=8)
    known = [size for size in report.sizes if size.driver_mb is not None]
    memory.plot([size.rows for size in known], [size.driver_mb for size in known], marker="o", label="driver's peak")
    memory.axhline(_WANTED_MB, linestyle="--", color="grey")
    memory.set(xscale="log", ylim=(0, None), xlabel="rows of the manifest", ylabel="MB resident")
    memory.legend(fontsize=8)
    for axes in (seconds, memory):
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
