"""The training recipe, at a size at which it takes seconds: stopped, gone on with, and loaded by plain diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from typer.testing import CliRunner

from jobs.train import train
from pipeline.demo import train_denoiser
from pipeline.demo.recipe import MIN_SCENES, Recipe, train_bundled_model
from pipeline.demo.training import StageSettings
from pipeline.errors import JobError
from pipeline.models.catalogue import CatalogueArchitecture

TINY = Recipe(
    architecture=CatalogueArchitecture(
        image_size=16, latent_channels=4, vae_channels=(16, 16), unet_channels=(16, 16), text_width=16, text_layers=1
    ),
    scenes=MIN_SCENES,
    autoencoder=StageSettings(steps=3, batch_size=8, learning_rate=1e-3, report_every=3),
    denoiser=StageSettings(steps=4, batch_size=8, learning_rate=1e-3, report_every=2),
)


def _checkpoint(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def stopped_and_resumed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """A finished training that was interrupted half-way through its second stage, and both checkpoints of then."""
    output = tmp_path_factory.mktemp("train")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_denoiser, "sample_grid", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_bundled_model(TINY, output, "cpu")
    first, second = _checkpoint(output / "autoencoder.pt"), _checkpoint(output / "denoiser.pt")
    assert train_bundled_model(TINY, output, "cpu") == output / "model"
    return output, first, second


def test_a_stopped_training_goes_on_where_it_was(
    stopped_and_resumed: tuple[Path, dict[str, Any], dict[str, Any]],
) -> None:
    """The finished stage is not trained again, and the interrupted one keeps the steps it had."""
    output, autoencoder, denoiser = stopped_and_resumed
    assert _checkpoint(output / "autoencoder.pt")["losses"] == autoencoder["losses"]
    finished = _checkpoint(output / "denoiser.pt")
    assert (denoiser["step"], finished["step"]) == (2, 4)
    assert finished["losses"][:2] == denoiser["losses"]
    assert all(map(torch.isfinite, torch.tensor(finished["losses"])))


def test_plain_diffusers_loads_the_result(
    stopped_and_resumed: tuple[Path, dict[str, Any], dict[str, Any]],
) -> None:
    """`StableDiffusionPipeline.from_pretrained` takes the folder as it is, and samples finite pictures."""
    folder = stopped_and_resumed[0] / "model"
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    images = pipeline("a photo of a blue mug", num_inference_steps=2, generator=generator, output_type="pt").images
    assert images.shape == (1, 3, 16, 16)
    assert images.isfinite().all()
    scheduler = pipeline.scheduler.config
    assert (scheduler.prediction_type, scheduler.beta_schedule) == ("epsilon", "scaled_linear")
    assert (scheduler.clip_sample, scheduler.set_alpha_to_one, scheduler.steps_offset) == (False, False, 1)


def test_the_folder_is_small_and_says_what_it_is(
    stopped_and_resumed: tuple[Path, dict[str, Any], dict[str, Any]],
) -> None:
    """Weights are float16 safetensors, no path of the machine is in it, and the card shows recipe and samples."""
    output = stopped_and_resumed[0]
    folder = output / "model"
    weights = sorted(folder.rglob("*.safetensors"))
    assert {path.parent.name for path in weights} == {"unet", "vae", "text_encoder"}
    floating = [t.dtype for path in weights for t in load_file(path).values() if t.is_floating_point()]
    assert set(floating) == {torch.float16}
    assert not [p for p in folder.rglob("*.json") if str(output) in p.read_text(encoding="utf-8")]
    card = (folder / "README.md").read_text(encoding="utf-8")
    for part in ("license: apache-2.0", "4 steps of 8", "dB", "samples.png", "1. a photo of a"):
        assert part in card
    assert (folder / "samples.png").stat().st_size > 0


def test_training_goes_on_from_saved_weights(
    stopped_and_resumed: tuple[Path, dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    """From a pipeline folder, with no steps asked for, the command gives the same weights back."""
    output = stopped_and_resumed[0]
    (tmp_path / "data").symlink_to(output / "data")
    app = typer.Typer()
    app.command()(train)
    command = f"--output {tmp_path} --image-size 16 --scenes {MIN_SCENES} --device cpu --start-from {output / 'model'}"
    result = CliRunner().invoke(app, [*command.split(), "--autoencoder-steps", "0", "--denoiser-steps", "0"])
    assert result.exit_code == 0, result.output
    for path in (output / "model").rglob("*.safetensors"):
        again = load_file(tmp_path / "model" / path.relative_to(output / "model"))
        for name, weight in load_file(path).items():
            assert torch.equal(again[name], weight), name


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    """Too few scenes, weights that are not there and a device that is not there are named in one line."""
    with pytest.raises(JobError, match="scenes: expected at least"):
        Recipe(scenes=8)
    with pytest.raises(JobError, match="expected a pipeline folder"):
        train_bundled_model(TINY, tmp_path, "cpu", start_from=tmp_path / "absent")
    with pytest.raises(JobError, match="device abacus: expected"):
        train_bundled_model(TINY, tmp_path, "abacus")
