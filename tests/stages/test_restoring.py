"""Artifacts of other versions, of other makers, and damaged: read as what they are, or refused by name, each alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.diffusion import factors
from pipeline.editor import Editor
from pipeline.inversion import Inversion, stored_tensors
from pipeline.io.artifacts import write_rows
from pipeline.io.tensors import pack, unpack
from pipeline.keys import ARTIFACT_VERSION
from pipeline.records import PromptRow
from pipeline.settings import FITTED, InversionSettings
from pipeline.stages.restoring import restored
from pipeline.stages.rows import Asked
from tests.small_job import pixels, table
from tests.small_model import save_small_model
from tests.stages.conftest import Job
from tests.stages.stand_in import StandInEditor

BLUE = PromptRow(edit_id="blue", prompt="a photo of a blue mug", strength=(1.0,))
INVERSION = {"num_inference_steps": 2, "max_iterations": 1}
COLUMNS = dict.fromkeys(("vae_psnr", "recon_psnr", "iterations", "seconds", "converged", "escalated"))
Change = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Editor:
    """An editor with the small model."""
    return Editor.from_pretrained(str(save_small_model(tmp_path_factory.mktemp("model"))), device="cpu")


def _taken(output: Path) -> dict[str, dict[str, Any]]:
    """The rows of an output's artifacts by image id, which are there no more."""
    rows = {row["image_id"]: row for row in table(output, "inversions")}
    for row in rows.values():
        del row["mask_uri"]
    shutil.rmtree(output / "inversions")
    return rows


def _with_settings(**changes: Any) -> Change:
    """Settings with others in their places; None takes one away."""

    def changed(row: dict[str, Any]) -> dict[str, Any]:
        settings = json.loads(row["settings"]) | changes
        return {"settings": json.dumps({name: value for name, value in settings.items() if value is not None})}

    return changed


def _without(tensor: str) -> Change:
    def changed(row: dict[str, Any]) -> dict[str, Any]:
        return {"tensors": pack({name: t for name, t in unpack(row["tensors"]).items() if name != tensor})}

    return changed


CHANGES: dict[str, tuple[Change, str]] = {
    "later": (lambda _: {"artifact_version": ARTIFACT_VERSION + 1}, "expected version 3 or 4; got 5"),
    "earlier": (lambda _: {"artifact_version": ARTIFACT_VERSION - 2}, "expected version 3 or 4; got 2"),
    "unknown": (_with_settings(sampler="euler"), "settings.sampler: Extra inputs are not permitted"),
    "magic": (_with_settings(method="magic"), "settings.method: Input should be 'ddim', "),
    "shorter": (_with_settings(num_inference_steps=None), "settings: expected num_inference_steps; got none"),
    "beyond": (_with_settings(guidance_share=9), "settings.guidance_share: Input should be less than or equal"),
    "cut": (lambda _: {"settings": "{"}, "Expecting property name"),
    "list": (lambda _: {"settings": "[]"}, "'list' object is not a mapping"),
    "damaged": (lambda _: {"tensors": b"neither"}, "Error while deserializing"),
}
OF_LEVEL: dict[str, dict[str, tuple[Change, str]]] = {
    "compact": {"partly": (_without("directions"), "directions, scales, weights, z_0; got no directions")},
    "full": {"partly": (_without("trajectory"), "embeddings, reconstruction, trajectory; got no trajectory")},
}


@pytest.mark.parametrize("level", OF_LEVEL)
def test_what_cannot_be_read_costs_its_row_alone(
    editor: Editor, photograph: Callable[..., Asked], output: Path, level: str
) -> None:
    """One line says of which artifact what was expected; it has no picture, and in their batch another's is as ever."""
    changes = CHANGES | OF_LEVEL[level]
    asked = [photograph(name, 20 * i + 5) for i, name in enumerate([*changes, "good"])]
    config = {"inversion": INVERSION | {"artifact": level}}
    Job(output, editor, [], **config).run(asked)
    shutil.copytree(output, output.parent / "untouched")
    rows = _taken(output)
    write_rows(
        str(output), "inversions", [rows["good"], *(rows[n] | make(rows[n]) for n, (make, _) in changes.items())]
    )
    counts = Job(output, editor, [BLUE], **config).run(asked)
    assert (counts.inverted, counts.edited, counts.codes) == (0, 1, {"artifact_unreadable": len(changes)})
    messages = {row["image_id"]: row["message"] for row in table(output, "failures")}
    for name, (_, said) in changes.items():
        assert messages[name].startswith(f"artifact {rows[name]['inversion_key'][:12]}…: ")
        assert said in messages[name]
        assert len(messages[name].splitlines()) == 1
    assert [path.name for path in (output / "images").iterdir()] == ["good"]
    Job(output.parent / "untouched", editor, [BLUE], **config).run(asked[-1:])
    one, other = (pixels(folder / "images/good/blue/1.png") for folder in (output, output.parent / "untouched"))
    assert np.array_equal(one, other)


def test_what_names_no_version_is_from_before_it_had_a_column(photograph: Callable[..., Asked], output: Path) -> None:
    """It is read, as the version from which on there is one."""
    Job(output, StandInEditor(), []).run([photograph("a")])
    [row] = _taken(output).values()
    assert row.pop("artifact_version") == ARTIFACT_VERSION
    write_rows(str(output), "inversions", [row])
    counts = Job(output, StandInEditor(), [BLUE]).run([photograph("a")])
    assert (counts.reused, counts.edited, counts.failures) == (1, 1, 0)


def test_artifacts_of_version_3_are_read_beside_those_of_today(
    editor: Editor, photograph: Callable[..., Asked], output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Directions in eight bits beside such in four: in one job each means what it meant alone."""
    asked = [photograph(name, 50 * i + 5) for i, name in enumerate(("old", "new"))]
    config = {"inversion": INVERSION}
    Job(output, editor, [], **config).run(asked[:1])
    monkeypatch.setattr(factors, "_BYTES", 0)
    Job(output, editor, [], **config).run(asked[1:])
    shutil.copytree(output, output.parent / "untouched")
    rows = _taken(output)
    kinds = {name: unpack(row["tensors"])["directions"].dtype for name, row in rows.items()}
    assert kinds == {"old": torch.int8, "new": torch.uint8}
    rows["old"]["artifact_version"] = 3
    write_rows(str(output), "inversions", list(rows.values()))
    counts = Job(output, editor, [BLUE], **config).run(asked)
    assert (counts.inverted, counts.edited, counts.failures) == (0, 2, 0)
    for one in asked:
        Job(output.parent / "untouched", editor, [BLUE], **config).run([one])
    for name in rows:
        one, other = (pixels(f / f"images/{name}/blue/1.png") for f in (output, output.parent / "untouched"))
        assert np.array_equal(one, other)


def test_an_image_that_shares_an_artifact_has_all_of_it_in_its_row(
    editor: Editor, photograph: Callable[..., Asked], output: Path
) -> None:
    """A compact one is handed on as it was read, where nothing is to be edited and nothing computed again."""
    job = Job(output, editor, [], inversion=INVERSION)
    assert [job.run([photograph(name)]).inverted for name in ("a", "b")] == [1, 0]
    one, other = table(output, "inversions")
    assert one["tensors"] == other["tensors"]


@pytest.mark.parametrize("artifact", ["compact", "full"])
@pytest.mark.parametrize("method", ["ddim", "prompt-tuning", "null-text", "negative-prompt", "direct", "edit-friendly"])
def test_every_tensor_of_a_method_is_needed(method: Any, artifact: Any) -> None:
    """Whichever is missing is named; all of them are an inversion."""
    settings = InversionSettings(method=method, artifact=artifact)
    names = stored_tensors(settings)
    assert ("embeddings" in names) == (method in FITTED and artifact == "full")
    for missing in [None, *names]:
        row = _row(settings.model_dump_json(), names - {missing})
        found = restored(row)
        if missing is None:
            assert isinstance(found, Inversion)
            assert found.settings == settings
        else:
            assert str(found).endswith(f"; got no {missing}")


@pytest.mark.parametrize(("stored", "share"), [({}, 1.0), ({"guidance_share": 0.3}, 0.3)])
def test_an_artifact_that_speaks_of_no_share_was_guided_throughout(stored: dict[str, float], share: float) -> None:
    """An artifact of before guidance had a share is sampled as it was fitted, and not at today's default."""
    first = {"method": "ddim", "num_inference_steps": 4, "guidance_scale": 3.0, "refine_iterations": 0}
    inversion = restored(_row(json.dumps(first | stored), frozenset({"trajectory", "reconstruction"})))
    assert isinstance(inversion, Inversion)
    assert inversion.settings.guidance_share == share


def _row(settings: str, tensors: frozenset[str | None]) -> Any:
    """As it is fetched, with tensors of no content."""
    artifact = COLUMNS | {"source_prompt": "", "settings": settings, "artifact_version": 3, "width": 8, "height": 8}
    held = pack({str(name): torch.zeros(1) for name in tensors})
    return {"inversion_key": "0123456789abcdef", "artifact": json.dumps(artifact), "tensors": held}
