"""`relatent bench piebench`: the batch engine on PIE-Bench's photographs, scored as its published tables are."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from jobs.exits import DONE, SOME_FAILED, exits
from jobs.options import read_config
from pipeline.config import JobConfig

_Weights = "weights of {}: a local folder or hub id; without them what it measures is missing"


def piebench(
    *,
    data: Annotated[str, typer.Option(help="folder with mapping_file.json and annotation_images/, local or s3://")],
    model: Annotated[str | None, typer.Option(help="diffusers folder or hub id (default: the bundled model)")] = None,
    preset: Annotated[str | None, typer.Option(help="settings by one name: fast, balanced or best")] = None,
    method: Annotated[str | None, typer.Option(help="how latents and embeddings are found")] = None,
    steps: Annotated[int | None, typer.Option(help="steps from the image to noise, and back")] = None,
    config: Annotated[str | None, typer.Option(help="YAML file of a job's options; flags win over it")] = None,
    batch_size: Annotated[int | None, typer.Option(help="images that are edited, and recorded, together")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first entries of the mapping file")] = None,
    given_masks: Annotated[bool, typer.Option("--given-masks", help="edit inside the data set's own masks")] = False,
    clip: Annotated[str | None, typer.Option(help=_Weights.format("CLIP (published: ViT-L/14)"))] = None,
    dino: Annotated[str | None, typer.Option(help=_Weights.format("DINO (published: ViT-B/8)"))] = None,
    lpips: Annotated[str | None, typer.Option(help="weights of LPIPS: torchvision's squeezenet1_1, a file")] = None,
    json_file: Annotated[
        str | None,
        typer.Option("--json", help="write the figures to this file after each batch; it resumes from there"),
    ] = None,
) -> None:
    """The seven metrics of PIE-Bench over its 700 photographs, by editing type and over all."""
    flags = {"model": model, "preset": preset, "method": method, "steps": steps, "batch-size": batch_size}
    flags |= {"clip": clip, "dino": dino, "lpips": lpips}
    exits(lambda: _measure(data, read_config(config, flags), limit=limit, given_masks=given_masks, json_file=json_file))


def _measure(
    data: str,
    config: JobConfig,
    *,
    limit: int | None,
    given_masks: bool,
    json_file: str | None,
) -> int:
    from pipeline.editor import Editor  # torch takes seconds to import
    from pipeline.io.storage import write_bytes
    from pipeline.perceptual import Perceptual
    from pipeline.quality.piebench import Plan, Results, as_markdown, run_piebench
    from pipeline.quality.piebench_data import read_mapping

    items = dict(list(read_mapping(data).items())[:limit])
    learned = Perceptual(config.scores)
    for reason in learned.missing.values():
        typer.echo(f"missing: {reason}", err=True)
    editor = Editor.from_pretrained(
        config.model,
        dtype=config.dtype,
        side=config.max_side,
        slots=config.slots,
        lora=config.lora,
        preview_vae=config.preview_vae,
    )
    plan = Plan(config.inversion, config.edit, given_masks, config.batch_size, config.max_pixels)
    asked = {
        "data": data,
        "model": editor.fingerprint,
        "inversion": config.inversion.model_dump(mode="json"),
        "edit": config.edit.model_dump(mode="json"),
        "given_masks": given_masks,
        "weights": {name: None if name in learned.missing else given for name, given in config.scores},
    }

    def report(results: Results) -> None:
        typer.echo(f"{len(results.scores)} of {len(items)} scored, {len(results.failures)} failed", err=True)
        if json_file is not None:
            figures = asked | results.as_json(learned.missing)
            write_bytes(json_file, (json.dumps(figures, indent=2) + "\n").encode())

    results = Results.from_json(_earlier(json_file, asked))
    run_piebench(editor, data, items, plan, learned, results, report)
    typer.echo(as_markdown(results))
    for key, error in results.failures.items():
        typer.echo(f"failed: {key}: {error.code}: {error}", err=True)
    return SOME_FAILED if results.failures else DONE


def _earlier(json_file: str | None, asked: dict[str, Any]) -> dict[str, Any]:
    """What an earlier call found, if the same was asked."""
    from pipeline.io.storage import exists, read_bytes

    nothing: dict[str, Any] = {"entries": {}}
    if json_file is None or not exists(json_file):
        return nothing
    try:
        found = json.loads(read_bytes(json_file))
        return found if asked.items() <= found.items() else nothing
    except (ValueError, AttributeError):
        return nothing
