"""`relatent bench …`: measurements, each printed as a table and written as JSON where asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.bench_piebench import piebench
from jobs.exits import DONE, exits
from jobs.options import read_config
from pipeline.errors import JobError

bench = typer.Typer(
    help="Measure quality and speed on the catalogue's held-out scenes.", no_args_is_help=True, add_completion=False
)
bench.command()(piebench)

_Json = Annotated[Path | None, typer.Option("--json", help="also write the figures to this file")]
_Model = Annotated[str | None, typer.Option("--model", help="diffusers folder or hub id (default: the bundled model)")]


@bench.command()
def quality(
    scenes: Annotated[int | None, typer.Option(min=1, help="held-out scenes; each is edited in every way")] = None,
    systems: Annotated[str | None, typer.Option(help="only these, separated by commas (default: all)")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="images that go through the network together")] = 32,
    model: _Model = None,
    report: Annotated[Path, typer.Option(help="folder of the table, the pictures, and the parts done so far")] = Path(
        "out/bench-quality"
    ),
    json_file: _Json = None,
    *,
    quick: Annotated[bool, typer.Option("--quick", help="a few scenes, and peers untuned")] = False,
) -> None:
    """Edits against the true edited image, by every method and preset and by other people's editors.

    Goes on where it was stopped.
    """

    def measure() -> int:
        from pipeline.models.assembly import load_stable_diffusion  # torch takes seconds to import
        from pipeline.quality.quality_bench import FULL, QUICK, QualityBench
        from pipeline.quality.report import summary, write_report

        extent = QUICK if quick else FULL
        run = QualityBench(
            load_stable_diffusion(model),
            report / "parts",
            extent if scenes is None else replace(extent, scenes=scenes),
            _listed(systems),
            batch_size,
            say=lambda line: typer.echo(line, err=True),
        )
        figures = run.measure()
        _write(json_file, figures.as_json())
        for line in write_report(run, figures, report):
            typer.echo(line, err=True)
        typer.echo(summary(figures))
        return DONE

    exits(measure)


@bench.command()
def speed(
    images: Annotated[int, typer.Option(min=1, help="photographs, each with four edits")] = 32,
    alone: Annotated[
        int, typer.Option(min=1, help="of these, how many also go through what takes one image at a time")
    ] = 4,
    batch_size: Annotated[int, typer.Option(min=1, help="rows that go through the network together")] = 16,
    systems: Annotated[str | None, typer.Option(help="only these, separated by commas (default: all)")] = None,
    steps: Annotated[int | None, typer.Option(min=4, max=100, help="of every system (default: each its own)")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="diffusers folder or hub id (default: the bundled model); or random weights: random-sd15, random-tiny",
        ),
    ] = None,
    json_file: _Json = None,
    *,
    compiled: Annotated[bool, typer.Option("--compile", help="the network compiled, in the presets")] = False,
) -> None:
    """Seconds, memory and arithmetic of the presets, of published null-text inversion, and of other people's editors.

    All on the same weights and photographs, with reconstruction beside.
    """

    def measure() -> int:
        from pipeline.models.random_weights import RANDOM_MODELS
        from pipeline.quality.speed.bench import Extent, bench_model, measure_speed

        report = measure_speed(
            bench_model(model),
            Extent(images, min(alone, images), batch_size, steps),
            _listed(systems),
            fixed=model in RANDOM_MODELS,
            compiled=compiled,
            say=lambda line: typer.echo(line, err=True),
            save=lambda report: _write(json_file, report.as_json()),
        )
        typer.echo(report.table())
        return DONE

    exits(measure)


@bench.command("pipeline")
def feed(
    images: Annotated[int, typer.Option(min=1, help="photographs, each with four edits")] = 64,
    preset: Annotated[str, typer.Option(help="settings by one name: fast, balanced or best")] = "balanced",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="images that an engine is given together; none: as in a job")
    ] = None,
    actors: Annotated[int | None, typer.Option(min=1, help="engines, and as many bare ones; none: as in a job")] = None,
    num_cpus: Annotated[int | None, typer.Option(min=1, help="CPU cores of each; none: as in a job")] = None,
    model: _Model = None,
    json_file: _Json = None,
) -> None:
    """Where the time of a whole job goes, how busy its engines are, and what the job costs beyond bare engines."""

    def measure() -> int:
        from pipeline.bench.feed import measure_feed

        options = {
            "preset": preset,
            "batch-size": batch_size,
            "actors": actors,
            "num-cpus": num_cpus,
            "model": model,
        }
        report = measure_feed(images, read_config(None, options))
        _write(json_file, report.as_json())
        typer.echo(report.table())
        return DONE

    exits(measure)


@bench.command()
def scale(
    rows: Annotated[str, typer.Option(help="rows of each manifest, separated by commas")] = "10000,100000,1000000",
    new: Annotated[
        float, typer.Option(min=0, max=1, help="share of them that the output lacks, one row at least")
    ] = 0.01,
    row_seconds: Annotated[
        float, typer.Option(min=0, help="what an inversion, or an edit, takes in the engine's stand-in")
    ] = 0.001,
    batch_size: Annotated[int, typer.Option(min=1, help="images that the engine is given together")] = 32,
    json_file: _Json = None,
    plot: Annotated[Path | None, typer.Option(help="also draw the curves into this file (needs matplotlib)")] = None,
) -> None:
    """What a nightly job over many rows takes: plan, anti-join, memory of the driver, files.

    The engine is a stand-in of known cost, all else is the real job. A million rows take some 4 GB of disk.
    """

    def measure() -> int:
        from pipeline.bench.scale import measure_scale
        from pipeline.bench.scale_report import check_drawable, draw

        if plot is not None:
            check_drawable()
        report = measure_scale(
            _numbers(rows),
            new,
            row_seconds,
            read_config(None, {"batch-size": batch_size, "actors": 1}),
            say=lambda line: typer.echo(line, err=True),
        )
        _write(json_file, report.as_json())
        if plot is not None:
            draw(report, plot)
        typer.echo(report.table())
        return DONE

    exits(measure)


def _numbers(listed: str) -> list[int]:
    numbers = [word.strip() for word in listed.split(",")]
    if not all(number.isdecimal() and int(number) > 0 for number in numbers):
        raise JobError(f"--rows: expected numbers above 0, separated by commas; got {listed!r}")
    return [int(number) for number in numbers]


def _listed(systems: str | None) -> list[str]:
    return [] if systems is None else [name.strip() for name in systems.split(",")]


def _write(path: Path | None, figures: dict[str, Any]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    bench()
