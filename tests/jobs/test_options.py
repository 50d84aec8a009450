"""Configuration files and flags."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from jobs.options import _FIELDS, configured, read_config
from pipeline.config import JobConfig
from pipeline.errors import JobError
from tests.commands import call


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    """What a flag gives replaces the file's value; what none gives stays."""
    file = tmp_path / "job.yaml"
    file.write_text("inversion: {method: ddim, num_inference_steps: 7}\nbatch_size: 3\n")
    config = read_config(str(file), {"method": "prompt-tuning", "steps": None, "batch-size": 5, "mask": "none"})
    assert config.inversion.method == "prompt-tuning"
    assert config.inversion.num_inference_steps == 7
    assert (config.batch_size, config.edit.mask) == (5, "none")


def test_help_names_choices_and_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an option can be, and what it is when it is not given, stands beside it."""
    monkeypatch.setenv("COLUMNS", "200")
    shown = call("run", "--help").stdout
    assert "(default: 50)" in shown
    assert "; fast, balanced or best (default: balanced)" in shown


def test_settings_that_do_not_go_together_are_named(tmp_path: Path) -> None:
    """Where no single option is to blame, the line says which setting does not fit."""
    file = tmp_path / "job.yaml"
    file.write_text("edit: {skip: 0.05}\n")
    with pytest.raises(JobError, match=r": edit\.skip: expected 0, or at least one step of 4; got 0\.05 of them$"):
        read_config(str(file), {"steps": 4})


def test_no_file_and_no_flags_are_the_defaults() -> None:
    """A flag that was not given changes nothing."""
    assert read_config(None, dict.fromkeys(_FIELDS)) == JobConfig()


def test_prefixes_may_be_several() -> None:
    """`--allow` adds up; without it the file's stand."""
    assert read_config(None, {"allow": ["s3://a", "/b"]}).allow == ("s3://a", "/b")
    assert read_config(None, {"allow": []}) == JobConfig()


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIA:topsecret@bucket/images.csv",
        "https://host/images.csv?x=1&X-Amz-Signature=topsecret",
        "https://topsecret@host/images.csv",
    ],
)
@pytest.mark.parametrize("option", ["images", "output", "model", "allow", "clip"])
def test_credentials_do_not_belong_in_options(uri: str, option: str) -> None:
    """They would stand in run.json: refused, without being repeated."""
    with pytest.raises(JobError, match="environment") as caught:
        read_config(None, {option: [uri] if option == "allow" else uri})
    assert "topsecret" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("batch_size: many", "--batch-size"),
        ("unknown: 1", "unknown"),
        ("inversion: fast", "inversion"),
        ("- a list", "expected a mapping"),
        ("{", "config"),
        ("a: &a [x]\nb: &b [*a, *a]\nbatch_size: " + "[" * 20_000, "config"),
        (
            "a: &a [x,x,x,x,x,x,x,x,x]\n"
            + "".join(f"{n}: &{n} [{', '.join([f'*{m}'] * 9)}]\n" for m, n in zip("abcdefgh", "bcdefghi", strict=True))
            + "batch_size: *i",
            "aliases",
        ),
        ("batch_size: !!int ''", "config"),
        ("batch_size: !!python/object/apply:os.system [id]", "config"),
        ("batch_size: 1" + "0" * 5000, "config"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    """The message names the file and the option."""
    file = tmp_path / "job.yaml"
    file.write_text(text)
    with pytest.raises(JobError) as caught:
        read_config(str(file), {})
    assert str(file) in str(caught.value)
    assert expected in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_flag_may_be_given_several_times(tmp_path: Path) -> None:
    """LoRA weights add up, in the order given; without the flag the file's stay."""
    seen: list[JobConfig] = []

    @configured("lora", "preview-vae")
    def job(config: JobConfig) -> int:
        seen.append(config)
        return 0

    app, file = typer.Typer(), tmp_path / "job.yaml"
    app.command()(job)
    file.write_text("lora: [file.safetensors]\n")
    for arguments in (["--lora", "a", "--lora", "b:0.5"], ["--preview-vae", "tiny"], []):
        CliRunner().invoke(app, ["--config", str(file), *arguments])
    assert [config.lora for config in seen] == [("a", "b:0.5"), ("file.safetensors",), ("file.safetensors",)]
    assert seen[1].preview_vae == "tiny"
