"""The curves of `bench scale`: time and memory against rows."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

from pipeline.bench.scale import ScaleReport
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
