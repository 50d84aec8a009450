from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchmetrics.functional.image.lpips as reference_lpips
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer, ViTModel

from pipeline.config import ScoreWeights
from pipeline.models.lpips import squeezenet_features
from pipeline.perceptual import Perceptual
from tests.networks import save_networks

TEXT = "a photo of a red mug on a wooden table"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of all three networks."""
    home = tmp_path_factory.mktemp("weights")
    save_networks(home)
    return home


@pytest.fixture(scope="module")
def learned(folder: Path) -> Perceptual:
    """All measures."""
    found = Perceptual(ScoreWeights(**{name: str(folder / name) for name in ("clip", "dino", "lpips")}), "cpu")
    assert found.missing == {}
    return found


def _pictures(size: tuple[int, int] = (64, 64)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, size[0] // 8, size[1] // 8, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    return a, b


def test_lpips_is_that_of_torchmetrics(learned: Perceptual, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own code, with our backbone in the place of the one that it would download, gives the same."""
    state = torch.load(folder / "lpips" / "squeezenet1_1-b8a52dc0.pth")
    backbone = squeezenet_features()
    backbone.load_state_dict({n.removeprefix("features."): t for n, t in state.items() if n.startswith("features.")})
    monkeypatch.setattr(reference_lpips, "_get_tv_model_features", lambda net, pretrained: backbone)
    a, b = _pictures()
    planes = [torch.from_numpy(x).permute(2, 0, 1)[None] / 255 for x in (a, b)]
    reference = reference_lpips.learned_perceptual_image_patch_similarity(*planes, net_type="squeeze", normalize=True)
    assert reference > 0.01
    assert learned.lpips(a, b) == pytest.approx(float(reference), rel=1e-5)


def test_lpips_reads_safetensors_as_well(learned: Perceptual, folder: Path, tmp_path: Path) -> None:
    """The backbone may be converted, and named as a file."""
    from safetensors.torch import save_file

    save_file(torch.load(folder / "lpips" / "squeezenet1_1-b8a52dc0.pth"), tmp_path / "squeeze.safetensors")
    other = Perceptual(ScoreWeights(lpips=str(tmp_path / "squeeze.safetensors")), "cpu")
    assert other.lpips(*_pictures()) == learned.lpips(*_pictures())


def test_clip_similarity_is_that_of_the_whole_model(learned: Perceptual, folder: Path) -> None:
    """The cosine that CLIP's own forward pass scales to logits."""
    model, image = CLIPModel.from_pretrained(folder / "clip"), _pictures()[0]
    tokens = CLIPTokenizer.from_pretrained(folder / "clip")([TEXT], return_tensors="pt")
    pixels = CLIPImageProcessorPil.from_pretrained(folder / "clip")(images=[image], return_tensors="pt")
    with torch.no_grad():
        logit = model(**tokens, **pixels).logits_per_image / model.logit_scale.exp()
    assert learned.clip_similarity(image, TEXT) == pytest.approx(max(0, 100 * float(logit)), abs=1e-4)


def test_a_text_longer_than_the_window_is_cut_off(learned: Perceptual) -> None:
    """What is behind the window's end changes nothing, and stops nothing."""
    image = _pictures()[0]
    assert learned.clip_similarity(image, f"{TEXT} " * 9) == learned.clip_similarity(image, f"{TEXT} " * 5)


@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
def test_structure_distance_compares_the_last_blocks_keys(
    learned: Perceptual, folder: Path, size: tuple[int, int]
) -> None:
    """As in numpy: keys of the last block, all heads side by side, cosines of all pairs, mean squared difference."""
    model = ViTModel.from_pretrained(folder / "dino")
    block = model.layers[-1]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])

    def similarities(image: np.ndarray) -> np.ndarray:
        # Halving 8 × 8 blocks of one colour each, without low-pass, takes every second pixel.
        seen = ((image[::2, ::2] - mean) / std).transpose(2, 0, 1)[None]
        with torch.no_grad():
            states = model(
                torch.from_numpy(seen).float(), output_hidden_states=True, interpolate_pos_encoding=True
            ).hidden_states
            keys = block.attention.k_proj(block.layernorm_before(states[-2]))[0].numpy().astype(np.float64)
        unit = keys / np.linalg.norm(keys, axis=1, keepdims=True)
        return unit @ unit.T

    a, b = _pictures(size)
    expected = np.square(similarities(a) - similarities(b)).mean()
    assert expected > 1e-4
    assert learned.structure_distance(a, b) == pytest.approx(expected, rel=1e-3)


def test_equal_pictures_have_no_distance(learned: Perceptual) -> None:
    """A perfect copy is at distance zero."""
    a, _ = _pictures()
    assert (learned.lpips(a, a), learned.structure_distance(a, a)) == (0, 0)


def test_what_no_weights_are_named_for_is_none() -> None:
    """Missing is not zero, and the reason is there."""
    a, b = _pictures()
    nothing = Perceptual(ScoreWeights(), "cpu")
    assert (nothing.lpips(a, b), nothing.structure_distance(a, b), nothing.clip_similarity(a, TEXT)) == (None,) * 3
    assert nothing.missing == {name: f"{name}: no weights named" for name in ("clip", "dino", "lpips")}


def test_weights_that_cannot_be_used_are_missing_with_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Absent folders, damaged files and another network's weights are never measured with."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "squeezenet1_1.pth").write_bytes(b"not a network")
    for name in ("clip", "dino"):
        shutil.copytree(folder / name, tmp_path / name)
        (tmp_path / name / "model.safetensors").write_bytes(b"not a network")
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    weights = [
        ScoreWeights(clip=str(tmp_path / "nowhere"), dino=str(folder / "clip"), lpips=str(tmp_path)),
        ScoreWeights(clip=str(tmp_path), dino=str(tmp_path), lpips=str(tmp_path / "other.pth")),
        ScoreWeights(clip=str(tmp_path / "clip"), dino=str(tmp_path / "dino"), lpips=str(tmp_path / "nowhere")),
        ScoreWeights(lpips=str(tmp_path / "nowhere")),
    ]
    for named in weights:
        missing = Perceptual(named, "cpu").missing
        assert missing.keys() == {"clip", "dino", "lpips"}
        assert all(len(reason.splitlines()) == 1 and reason.startswith(name) for name, reason in missing.items())


def test_without_torchmetrics_lpips_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The heads come with that package; the reason says how to install it."""
    monkeypatch.setattr("pipeline.models.weights.find_spec", lambda name: None)
    missing = Perceptual(ScoreWeights(lpips=str(folder / "lpips")), "cpu").missing
    assert "pip install 'relatent[metrics]'" in missing["lpips"]
