"""The demonstration's catalogue and its contact sheet."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pipeline.config import JobConfig
from pipeline.demo.catalogue_job import PROMPTS, SCENES, image_id, write_catalogue
from pipeline.demo.scene import HELD_OUT_SEEDS
from pipeline.io.images import decode
from pipeline.models import loading
from pipeline.planning import read_plan
from tests.small_model import save_small_model


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, JobConfig]:
    """The written catalogue and the job over it."""
    folder = tmp_path_factory.mktemp("demo")
    return folder, write_catalogue(folder)


def test_the_catalogue_is_a_job_worth_watching(
    catalogue: tuple[Path, JobConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At least 12 scenes and 48 edits, with a sweep of strengths, a column and a condition; nothing is refused."""
    monkeypatch.setattr(loading, "BUNDLED_MODEL", save_small_model(tmp_path / "model"))
    _, config = catalogue
    plan = read_plan("run", config)
    assert plan.refusals == ()
    assert len(plan.images) >= 12
    assert plan.edits >= 48
    assert len(plan.prompts) >= 4
    assert any(len(prompt.strengths) > 1 for prompt in plan.prompts)
    assert any(prompt.where for prompt in plan.prompts)
    assert any("{" in prompt.text for prompt in plan.prompts)


def test_the_photographs_are_of_the_benchmark(catalogue: tuple[Path, JobConfig]) -> None:
    """Each scene has its photograph and its row, and a seed that training never drew."""
    folder, _ = catalogue
    rows = list(csv.DictReader((folder / "manifests/images.csv").read_text().splitlines()))
    assert [row["image_id"] for row in rows] == [image_id(scene) for scene in SCENES]
    assert all(scene.seed < HELD_OUT_SEEDS for scene in SCENES)
    pictures = [decode((folder / "manifests" / row["image_uri"]).read_bytes(), 10**6).pixels for row in rows]
    assert {picture.shape for picture in pictures} == {(192, 192, 3)}


def test_no_edit_asks_for_what_is_there() -> None:
    """No scene has the colour or pattern that it is to get."""
    assert all(scene.colour not in {"blue", "black"} and scene.pattern != "striped" for scene in SCENES)
    assert len({prompt["edit_id"] for prompt in PROMPTS}) == len(PROMPTS)
