"""`python -m jobs.train`: train the bundled model, from nothing, from a checkpoint or from saved weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import typer

from pipeline.demo.recipe import MIN_SCENES, Recipe, train_bundled_model
from pipeline.errors import JobError

_DEFAULTS: Final = Recipe()


def train(
    output: Annotated[Path, typer.Option(help="where renderings, checkpoints and the model go")],
    image_size: Annotated[int, typer.Option(min=16, help="side in pixels")] = _DEFAULTS.architecture.image_size,
    scenes: Annotated[int, typer.Option(min=MIN_SCENES, help="scenes to render")] = _DEFAULTS.scenes,
    autoencoder_steps: Annotated[int, typer.Option(min=0, help="0: keep it as it is")] = _DEFAULTS.autoencoder.steps,
    denoiser_steps: Annotated[int, typer.Option(min=0, help="0: keep it as it is")] = _DEFAULTS.denoiser.steps,
    start_from: Annotated[Path | None, typer.Option(help="pipeline folder to go on from")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    seed: Annotated[int, typer.Option(help="of weights, noise and order")] = _DEFAULTS.seed,
) -> None:
    """Train the bundled model; the same command again goes on from the last checkpoint."""
    recipe = replace(
        _DEFAULTS,
        architecture=replace(_DEFAULTS.architecture, image_size=image_size),
        scenes=scenes,
        autoencoder=replace(_DEFAULTS.autoencoder, steps=autoencoder_steps),
        denoiser=replace(_DEFAULTS.denoiser, steps=denoiser_steps),
        seed=seed,
    )
    try:
        folder = train_bundled_model(recipe, output, device, start_from)
    except JobError as error:
        typer.echo(f"train: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"{folder}: trained; its card is {folder / 'README.md'}")


if __name__ == "__main__":
    typer.run(train)
