from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.asking import Asking
from pipeline.config import JobConfig, RowDefaults
from pipeline.errors import JobError
from pipeline.planning import Plan, read_plan
from pipeline.records import PromptRow
from pipeline.settings import EditSettings


def test_edits_are_counted_as_they_are_asked() -> None:
    """The count of a plan is that of the edits, with those that an empty column will refuse."""
    asking = Asking(
        [
            PromptRow(edit_id="all", prompt="a photo", strength=(0, 1)),
            PromptRow(edit_id="one", prompt="a photo", image_id="a"),
            PromptRow(edit_id="mugs", prompt="a photo", where={"thing": ["mug", "vase"]}),
            PromptRow(edit_id="filled", prompt="a photo of a {thing}", strength=(0.5, 1)),
        ]
    )
    for columns, count in (
        ({"image_id": "a", "thing": "mug"}, 6),
        ({"image_id": "b", "thing": "bowl"}, 4),
        ({"image_id": "c", "thing": None}, 4),
    ):
        edits, refused = asking.of(columns)
        assert asking.count(columns) == len(edits) + len(refused) == count


def test_edits_are_there_with_the_prompt_that_is_asked_for() -> None:
    """An edit whose text changed since is to be made again, as is one that cannot be filled in."""
    asking = Asking(
        [
            PromptRow(edit_id="plain", prompt="a photo", strength=(0, 1)),
            PromptRow(edit_id="filled", prompt="a {thing}"),
            PromptRow.model_validate({"edit_id": "both", "edits": [{"prompt": "x"}, {"prompt": "y", "strength": 0.5}]}),
        ]
    )
    committed = {("plain", 1.0): "a photo", ("filled", 1.0): "a mug", ("both", 1.0): "1 × x + 0.5 × y"}
    for changed, columns, count in (
        ({}, {"thing": "mug"}, 3),
        ({}, {"thing": "vase"}, 2),
        ({}, {"thing": None}, 2),
        ({("plain", 1.0): "another photo"}, {"thing": "mug"}, 2),
        ({("plain", 0.0): "a photo"}, {"thing": "mug"}, 4),
    ):
        assert asking.there({"image_id": "a", **columns}, committed | changed) == count


def test_a_word_that_the_job_weighs_and_no_prompt_has_is_refused(tmp_path: Path) -> None:
    """One prompt that has it is enough, and a column may bring it."""
    images, prompts = tmp_path / "images.csv", tmp_path / "prompts.jsonl"
    images.write_text("image_id,image_uri,colour\na,a.png,blue\n")
    config = JobConfig(
        images=str(images),
        prompts=str(prompts),
        output=str(tmp_path / "out"),
        edit=EditSettings(word_weights={"blue": 2.0}),
    )
    red, template = (f'{{"edit_id": "{text[0]}", "prompt": "{text} mug"}}\n' for text in ("red", "{colour}"))
    for fitting in (red + red.replace("red", "Blue").replace('"r"', '"b"'), template):
        prompts.write_text(fitting)
        assert read_plan("run", config).refusals == ()
    prompts.write_text(red)
    with pytest.raises(JobError, match=r"edit\.word_weights: expected words of the prompts; no prompt has 'blue'"):
        read_plan("run", config)


def _plan_of_a_flow(tmp_path: Path, prompt: str, **settings: object) -> Plan:
    """A plan for a model without cross-attention, of which planning needs no more than its name."""
    images, prompts, model = tmp_path / "images.csv", tmp_path / "prompts.jsonl", tmp_path / "model"
    model.mkdir(exist_ok=True)
    (model / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    images.write_text("image_id,image_uri\na,a.png\n")
    prompts.write_text(prompt)
    given = {"images": str(images), "prompts": str(prompts), "output": str(tmp_path / "out"), "model": str(model)}
    return read_plan("run", JobConfig.model_validate(given | settings))


@pytest.mark.parametrize(
    "edit", [{"mask": "attention"}, {"mask": "both"}, {"hold_self_attention": 0.1}, {"hold_cross_attention": 0.1}]
)
def test_a_job_that_asks_for_what_its_model_lacks_is_refused(tmp_path: Path, edit: dict[str, object]) -> None:
    """Before anything runs; with the settings' own defaults it could."""
    prompt = '{"edit_id": "a", "prompt": "a mug"}'
    assert _plan_of_a_flow(tmp_path, prompt).refusals == ()
    with pytest.raises(JobError, match=f"{next(iter(edit))}.*expected a model with cross-attention"):
        _plan_of_a_flow(tmp_path, prompt, edit=edit)


def test_a_prompt_that_asks_for_what_the_model_lacks_is_refused(tmp_path: Path) -> None:
    """With its line, like every row that is not valid."""
    plan = _plan_of_a_flow(tmp_path, '{"edit_id": "a", "prompt": "a mug", "word_weights": {"mug": 2}}')
    [refusal] = plan.refusals
    assert (refusal.row_id, refusal.line) == ("a", 1)
    assert "word_weights: expected a model with cross-attention" in refusal.reason
    assert plan.prompts == ()


def test_a_model_of_no_known_family_is_refused(tmp_path: Path) -> None:
    """Before anything runs, naming those that are known."""
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(JobError, match=r"expected one of StableDiffusionPipeline.*; got FluxPipeline"):
        read_plan("invert", JobConfig(images="x.csv", output=str(tmp_path / "out"), model=str(tmp_path)))


def test_rows_that_are_silent_ask_for_the_jobs_defaults(tmp_path: Path) -> None:
    """Strength, negative prompt, guidance and seed come from the job where a row gives none, and only there."""
    images, prompts = tmp_path / "images.csv", tmp_path / "prompts.jsonl"
    images.write_text("image_id,image_uri\na,a.png\n")
    own = {"strength": 0.7, "negative_prompt": "", "guidance_scale": 2, "seed": 7}
    prompts.write_text(
        "".join(json.dumps({"edit_id": i, "prompt": "x", **row}) + "\n" for i, row in (("a", {}), ("b", own)))
    )
    defaults = {"strength": [0.5, 1.0], "negative_prompt": "blurry", "guidance_scale": 4, "seed": 3}
    config = JobConfig.model_validate(
        {"images": str(images), "prompts": str(prompts), "output": str(tmp_path / "out"), "row_defaults": defaults}
    )
    silent, given = read_plan("run", config).prompts
    assert silent.strengths == (0.5, 1.0)
    assert (silent.negative_prompt, silent.guidance_scale, silent.seed) == ("blurry", 4, 3)
    assert (given.strengths, given.negative_prompt, given.guidance_scale, given.seed) == ((0.7,), "", 2, 7)
    with pytest.raises(ValueError, match=r"expected each value once; got \[0.5, 0.5\]"):
        RowDefaults.model_validate({"strength": [0.5, 0.5]})


def test_parts_of_several_gpus_are_refused() -> None:
    """Ray gives an actor a part of one, or several whole ones."""
    assert [JobConfig(num_gpus=gpus).num_gpus for gpus in (0, 0.3, 1, 2)] == [0, 0.3, 1, 2]
    with pytest.raises(ValueError, match=r"expected a part of 1, or a whole number; got 1\.5"):
        JobConfig(num_gpus=1.5)


def test_planning_needs_no_torch(tmp_path: Path) -> None:
    """Also where LoRA weights and another autoencoder make another model of it."""
    (tmp_path / "a.safetensors").write_bytes(b"weights")
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{}")
    code = (
        "import sys; from pipeline.planning import read_plan; from pipeline.config import JobConfig\n"
        "images, output, lora, vae = sys.argv[1:]\n"
        "plans = [read_plan('invert', JobConfig(images=images, output=output, **more)) for more in "
        "({}, {'lora': (lora,)}, {'preview_vae': vae})]\n"
        "assert len({plan.fingerprint for plan in plans}) == 3; assert 'torch' not in sys.modules"
    )
    (tmp_path / "images.csv").write_text("image_id,image_uri\na,a.png\n")
    given = [str(tmp_path / name) for name in ("images.csv", "out", "a.safetensors", "vae")]
    done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
