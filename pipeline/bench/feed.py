"""How well the job feeds its engines: the real Ray job over photographs, and as many bare engines over the same."""

from __future__ import annotations

import csv
import io
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import wait
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Final

import ray
import torch
import yaml

from pipeline.cluster import spans
from pipeline.cluster.execution import execute, fetch_of
from pipeline.cluster.graph import shared_batch_size
from pipeline.cluster.session import Resources, connect
from pipeline.cluster.spans import Span
from pipeline.cluster.tables import asked_table
from pipeline.config import JobConfig
from pipeline.errors import JobError
from pipeline.io.images import encode_png
from pipeline.io.storage import write_bytes
from pipeline.models.assembly import placement
from pipeline.models.grid import read_grid
from pipeline.planning import Plan, read_plan
from pipeline.quality.speed.machine import describe
from pipeline.quality.speed.photographs import EDITS, Photograph, photographs
from pipeline.stages.engine import Engine
from pipeline.stages.history import History
from pipeline.stages.rows import Fetched

_OF_THE_ENGINE: Final = frozenset({"invert", "edit"})
_SIDES: Final = 4  # photographs are as much larger than what the model works at, as real ones are
# What a driver imports, in an interpreter that then tells when it has done so.
_IMPORTS: Final = "import time, pipeline.planning, pipeline.cluster.execution; print(time.time())"
_FILES: Final = {"images": "images.csv", "prompts": "prompts.yaml", "output": "out"}


@dataclass(frozen=True, slots=True)
class FeedReport:
    """Where the time of a job goes.

    Attributes:
        startup_s: seconds until the engine's first batch, by what takes them, in order: the driver's `imports`, reading
            the `plan`, starting `ray`, fetching the `first rows` with new workers, and with these at hand the `model`:
            the actor's own imports, and loading it.
        job_s: seconds of the whole job, from the start of its driver to its record.
        engines: how many engines the job had, and as many bare ones.
        engine_s: seconds of the bare engines: each a process on as many cores as an actor has, or on its GPU, over its
            share of the photographs, which are at hand; nothing is written.
        stages: seconds that processes worked, by stage; they overlap. Decoding and resizing are fetching's.
        busy_share: the engine's work, as a share of the time from its first batch to the end of its last.
        overhead: what the job took beyond its start and the bare engine, as a share of the latter.
    """

    machine: str
    model: str
    preset: str
    images: int
    edits: int
    startup_s: Mapping[str, float]
    job_s: float
    engines: int
    engine_s: float
    stages: Mapping[str, float]
    busy_share: float
    overhead: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def table(self) -> str:
        """The figures as Markdown."""
        bare = "bare engine" if self.engines == 1 else f"{self.engines} bare engines"
        startup = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.startup_s.items())
        return "\n".join(
            [
                f"{self.machine}; {self.preset}: {self.images} images, {self.edits} edits",
                "",
                "| stage | seconds at work |",
                "|---|---|",
                *(f"| {name} | {seconds:.2f} |" for name, seconds in self.stages.items()),
                "",
                f"start-up: {startup}",
                f"engine busy {self.busy_share:.1%} of the time from its first batch to its last",
                f"job {self.job_s:.1f} s, {bare} {self.engine_s:.1f} s: {self.overhead:+.1%} beside the start-up",
            ]
        )


def measure_feed(images: int, config: JobConfig) -> FeedReport:
    """Run both over so many photographs, the job first, each loading the model for itself.

    Raises:
        JobError: the model cannot be loaded.
    """
    with tempfile.TemporaryDirectory() as folder:
        photos = photographs(images, _SIDES * read_grid(config.model, config.max_side).side)
        config = _written(photos, Path(folder), config)
        job = _run_job(config, Path(folder) / "spans")
        machine, engine_s = _run_engines(job.plan, job.resources)
    first = next(span for span in job.spans if span.stage in _OF_THE_ENGINE)
    load_s = next(span for span in job.spans if (span.stage, span.process) == (spans.LOAD, first.process)).seconds
    imports_s = _imports_s()
    startup_s = {
        "imports": imports_s,
        "plan": job.planned - job.began,
        "ray": job.connected - job.planned,
        "first rows": first.began - job.connected - load_s,
        "model": load_s,
    }
    job_s = imports_s + job.ended - job.began
    return FeedReport(
        machine=machine,
        model=job.plan.fingerprint,
        preset=config.preset,
        images=images,
        edits=job.plan.edits,
        startup_s=startup_s,
        job_s=job_s,
        engines=job.resources.actors,
        engine_s=engine_s,
        stages=_by_stage(job.spans),
        busy_share=_busy_share(job.spans),
        overhead=(job_s - sum(startup_s.values())) / engine_s - 1,
    )


@dataclass(frozen=True, slots=True)
class _Job:
    """A job that was run, and when, by the wall clock."""

    plan: Plan
    resources: Resources
    spans: Sequence[Span]
    began: float
    planned: float
    connected: float
    ended: float


def _run_job(config: JobConfig, noted: Path) -> _Job:
    noted.mkdir()
    with spans.noted(noted):
        began = time.time()
        plan = read_plan("run", config)
        planned = time.time()
        resources = connect(config, len(plan.images))
        connected = time.time()
        try:
            counts = execute(plan, lambda _: None)
            ended = time.time()
        finally:
            ray.shutdown()
    assert counts.inverted == len(plan.images), counts
    assert counts.edited == plan.edits, counts
    return _Job(plan, resources, spans.read(noted), began, planned, connected, ended)


def _imports_s() -> float:
    """Seconds that a driver takes before it does anything; those of this process, which measures, are others."""
    began = time.time()
    done = subprocess.run([sys.executable, "-c", _IMPORTS], capture_output=True, text=True, check=True)  # noqa: S603
    return float(done.stdout) - began


def _run_engines(plan: Plan, resources: Resources) -> tuple[str, float]:
    """What an engine runs on, and seconds of as many as the job has, over what a first run fetches.

    They begin when all are loaded.
    """
    config = plan.config.model_copy(update={"dtype": resources.dtype, "output": f"{plan.output}-of-nobody"})
    asked = asked_table(plan.images, of_artifacts=False).to_pylist()
    rows = fetch_of(replace(plan, config=config), History())(asked)
    size = shared_batch_size(len(rows), resources.actors, config)
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    spawning = multiprocessing.get_context("spawn")
    loaded, took = spawning.Barrier(resources.actors), spawning.SimpleQueue()
    engines = [
        spawning.Process(
            target=_engine, args=(config, resources, i, batches[i :: resources.actors], loaded, took), daemon=True
        )
        for i in range(resources.actors)
    ]
    for engine in engines:
        engine.start()
    at_work = {engine.sentinel: engine for engine in engines}
    while at_work:
        for ended in wait(list(at_work)):
            assert isinstance(ended, int)
            # Whoever dies over its model leaves the others waiting.
            if code := at_work.pop(ended).exitcode:
                raise JobError(f"bench: a bare engine ended with exit code {code}")
    told: list[tuple[float, str]] = [took.get() for _ in engines]
    seconds, machine = max(told)
    return machine, seconds


def _engine(
    config: JobConfig, resources: Resources, number: int, batches: list[list[Fetched]], loaded: Barrier, took: Any
) -> None:
    """One engine's process: its seconds over its batches, and what it ran on, to `took`."""
    if resources.device is None:
        torch.cuda.set_device(number)
    else:
        torch.set_num_threads(resources.num_cpus)
    engine = Engine.loaded(config, resources.device, None, apart=None)
    loaded.wait()
    began = time.perf_counter()
    for batch in batches:
        for _ in engine(batch):
            pass
    took.put((time.perf_counter() - began, describe(*placement(resources.device, config.dtype))))


def _by_stage(noted: Sequence[Span]) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for span in noted:
        if span.stage != spans.LOAD:
            seconds[span.stage] = seconds.get(span.stage, 0.0) + span.seconds
    return seconds


def _busy_share(noted: Sequence[Span]) -> float:
    """Of all engine processes, each over its own time."""
    engines: dict[int, list[Span]] = {}
    for span in noted:
        if span.stage in _OF_THE_ENGINE:
            engines.setdefault(span.process, []).append(span)
    worked = sum(span.seconds for work in engines.values() for span in work)
    return worked / sum(work[-1].ended - work[0].began for work in engines.values())


def _written(photos: Sequence[Photograph], folder: Path, config: JobConfig) -> JobConfig:
    """Write photographs and manifests into a folder, and return the job over them."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image_id", "image_uri", "source_prompt", *EDITS))
    for i, photo in enumerate(photos):
        write_bytes(str(folder / "photographs" / f"{i}.png"), encode_png(photo.pixels, None, None))
        writer.writerow((str(i), f"photographs/{i}.png", photo.source_prompt, *photo.prompts))
    prompts = [{"edit_id": kind, "prompt": f"{{{kind}}}"} for kind in EDITS]
    write_bytes(str(folder / "images.csv"), text.getvalue().encode())
    write_bytes(str(folder / "prompts.yaml"), yaml.safe_dump(prompts).encode())
    named = {name: str(folder / file) for name, file in _FILES.items()}
    return config.model_copy(update=named)
