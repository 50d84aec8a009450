"""What a job would read, write, take and cost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.report import plan_lines, size
from pipeline.config import JobConfig
from pipeline.cost import restoring_cost
from pipeline.editor import Editor
from pipeline.estimate import Estimate, distinct_prompts, estimated, work_of
from pipeline.io import sizes
from pipeline.io.artifacts import write_rows
from pipeline.io.outcomes import summary
from pipeline.io.storage import write_bytes
from pipeline.methods import METHODS
from pipeline.models.assembly import load_stable_diffusion
from pipeline.models.measuring import counted_passes
from pipeline.models.stable_diffusion import StableDiffusion
from pipeline.planning import Plan, read_plan, remainder
from pipeline.settings import InversionSettings
from tests.io.rows import edit_row, inversion_row

PROMPTS = (
    {"edit_id": "blue", "prompt": "a blue {thing}", "strength": [0, 1]},
    {"edit_id": "mugs", "prompt": "a green mug", "where": {"thing": "mug"}},
    {"edit_id": "chairs", "prompt": "a green chair", "where": {"thing": "chair"}},
    {"edit_id": "one", "prompt": "a blue mug", "image_id": "0"},
)


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    """The bundled one."""
    return load_stable_diffusion(None, "cpu")


def plan_over(folder: Path, **config: Any) -> Plan:
    """A plan over ten pictures of 1,000 bytes, mugs and vases by turns, one without a thing, two of the same URI."""
    folder.mkdir(exist_ok=True)
    things = ["mug", "vase"] * 4 + ["", "mug"]
    rows = [{"image_id": str(i), "image_uri": f"{i % 9}.png", "thing": things[i] or None} for i in range(10)]
    (folder / "images.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    for i in range(9):
        (folder / f"{i}.png").write_bytes(b"x" * 1000)
    named = {"images": str(folder / "images.jsonl"), "prompts": str(folder / "prompts.jsonl")}
    return read_plan("run", JobConfig(**named, output=str(folder / "out"), **config))


def estimate(plan: Plan) -> Estimate:
    """What is left of a plan."""
    return estimated(plan, summary(plan.output), *remainder(plan))


def told(plan: Plan) -> str:
    """What the plan says."""
    return "\n".join(plan_lines(plan, summary(plan.output), estimate(plan)))


def test_originals_and_prompts_count_once(tmp_path: Path) -> None:
    """A URI that two rows share is read once in the count, and a text that two prompt rows ask for is one prompt."""
    plan = plan_over(tmp_path)
    assert distinct_prompts(plan) == {"a blue mug", "a blue vase", "a green mug"}
    rest = estimate(plan)
    assert (rest.distinct_images, rest.distinct_prompts, rest.reads.total) == (9, 3, 9000)
    assert "in: 9 kB" in told(plan)


def test_nothing_is_guessed_before_something_has_run(tmp_path: Path) -> None:
    """Without results there are neither seconds nor bytes, and the plan says how to measure them."""
    plan = plan_over(tmp_path)
    rest = estimate(plan)
    assert (rest.seconds, rest.writes, rest.gpu_hours) == (None, None, None)
    assert "time: not known before something has run; --sample 20" in told(plan)


def test_what_has_run_is_the_measure_of_the_rest(tmp_path: Path) -> None:
    """Mean seconds and bytes of what is there, times what is left, on the GPUs that actors hold, at their price."""
    plan = plan_over(tmp_path, actors=2, num_gpus=0.5, gpu_hour_price=3.0)
    inversions = [inversion_row(str(i), seconds=100.0, tensors=b"t" * 5000) for i in range(2)]
    pictures = [f"{plan.output}/images/{i}/blue/1.png" for i in range(2)]
    edits = [edit_row(str(i), seconds=20.0, prompt="another", image_uri=uri) for i, uri in enumerate(pictures)]
    for uri, length in zip(pictures, (100, 300), strict=True):
        write_bytes(uri, b"p" * length)
    (uri,) = (write_rows(plan.output, kind, rows) for kind, rows in (("inversions", inversions),))
    write_rows(plan.output, "edits", edits)
    rest = estimate(plan)
    assert (rest.images, rest.edits) == (8, plan.edits)
    inversion, edit = work_of(plan)
    restored = 2 * restoring_cost(plan.config.inversion) * 240 / (2 * inversion + 2 * edit)
    assert rest.seconds == pytest.approx(8 * 100 + plan.edits * 20 + restored)
    assert rest.writes == 8 * Path(str(uri)).stat().st_size / 2 + plan.edits * 200
    assert rest.gpu_hours == pytest.approx(rest.seconds * 0.5 / 3600)
    assert f"{rest.gpu_hours:,.3g} GPU-hours of the model alone, {rest.gpu_hours * 3:,.2f} at 3 each" in told(plan)


def test_edits_not_made_yet_are_timed_by_the_inversions(tmp_path: Path) -> None:
    """Where only one kind has been measured, the other takes its share of network evaluations."""
    plan = plan_over(tmp_path)
    inversion, edit = work_of(plan)
    write_rows(plan.output, "inversions", [inversion_row("0", seconds=float(inversion))])
    assert estimate(plan).seconds == 9 * inversion + plan.edits * edit + restoring_cost(plan.config.inversion)


def test_whole_artifacts_are_edited_at_once(tmp_path: Path) -> None:
    """Nothing that they need is computed again, so that a plan takes no time for it."""
    plan = plan_over(tmp_path, inversion=InversionSettings(artifact="full"))
    inversion, edit = work_of(plan)
    write_rows(plan.output, "inversions", [inversion_row("0", seconds=float(inversion))])
    assert estimate(plan).seconds == 9 * inversion + plan.edits * edit


@pytest.mark.parametrize("method", METHODS)
def test_restoring_costs_what_the_network_is_asked_for(model: StableDiffusion, method: str) -> None:
    """As many rows go through it as the plan counts, for every method."""
    settings = InversionSettings.model_validate({"method": method, "num_inference_steps": 6, "guidance_scale": 2.0})
    editor = Editor(model)
    image = np.full((64, 64, 3), 128, np.uint8)
    [inversion] = editor.invert([image], source_prompts="a photo of a red mug", settings=settings)
    kept = replace(inversion, tensors=inversion.kept)
    with counted_passes(model) as passes:
        editor.restore_rows([kept])
    assert passes.forward["unet"] == restoring_cost(settings)


def test_many_originals_are_measured_by_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than can be asked for quickly are extrapolated, and the plan says so, and what is not there."""
    monkeypatch.setattr(sizes, "_LOOKED_AT", 4)
    plan = plan_over(tmp_path)
    assert "in: about 9 kB, from 4 of 9 originals at random" in told(plan)
    monkeypatch.setattr(sizes, "_LOOKED_AT", 100)
    (tmp_path / "0.png").unlink()
    assert "in: 8 kB; 1 of 9 looked at are not there" in told(plan)


def test_sizes_on_object_storage_are_those_of_the_objects(s3: str) -> None:
    """Bytes in are known without reading an object."""
    uris = [f"{s3}/{i}" for i in range(3)]
    for i, uri in enumerate(uris):
        write_bytes(uri, b"x" * i)
    found = sizes.bytes_of([*uris, f"{s3}/missing"])
    assert (found.total, found.missing, found.each) == (3, 1, 1.0)


def test_a_sample_is_planned_and_run_alike(tmp_path: Path) -> None:
    """`limit` and `sample` choose the same images in every plan; a prompt may name an image that is not among them."""
    assert plan_over(tmp_path, limit=3).images["image_id"].to_pylist() == ["0", "1", "2"]
    first, again = (plan_over(tmp_path, sample=4) for _ in range(2))
    assert first.images.equals(again.images)
    assert len(first.images) == 4
    assert first.refusals == ()


@pytest.mark.parametrize(("count", "said"), [(0, "0 B"), (999, "999 B"), (1_000_000, "1 MB"), (7.6e12, "7.6 TB")])
def test_sizes_are_said_as_people_say_them(count: float, said: str) -> None:
    """Three digits and the unit that fits."""
    assert size(count) == said
