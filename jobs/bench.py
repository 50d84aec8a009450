"""`relatent bench …`: measurements, each printed as a table and written as JSON where asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.bench_piebench import piebench
from jobs.exits import DONE, exits

bench = typer.Typer(help="Measure quality and speed on the catalogue's held-out scenes.", no_args_is_help=True)
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
        from pipeline.models.assembly import load_backbone  # torch takes seconds to import
        from pipeline.quality.quality_bench import FULL, QUICK, QualityBench
        from pipeline.quality.report import summary, write_report

        extent = QUICK if quick else FULL
        run = QualityBench(
            load_backbone(model),
            report / "parts",
            extent if scenes is None else replace(extent, scenes=scenes),
            [] if systems is None else [name.strip() for name in systems.split(",")],
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
    images: Annotated[int, typer.Option(min=1, help="images in the batch")] = 16,
    model: _Model = None,
    json_file: _Json = None,
) -> None:
    """A batch of images against the same images one at a time."""

    def measure() -> int:
        from pipeline.config import InversionSettings
        from pipeline.editor import Editor
        from pipeline.quality.speed_bench import measure_speed

        report = measure_speed(Editor.from_pretrained(model), images, InversionSettings())
        typer.echo(
            f"{report.method}, {report.images} images, {report.machine}: {report.batched_s:.2f} s per image in one "
            f"batch, {report.single_s:.2f} s one at a time: {report.ratio:.2f} × faster; "
            f"largest pixel difference {report.max_pixel_difference} of 255"
        )
        _write(json_file, report.as_json())
        return DONE

    exits(measure)


def _write(path: Path | None, figures: dict[str, Any]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    bench()
