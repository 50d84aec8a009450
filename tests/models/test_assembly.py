"""LoRA weights and tiny autoencoders: what they change, which files are taken, and that they make another model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.editor import Editor
from pipeline.errors import JobError
from pipeline.io.storage import write_bytes
from pipeline.models import loading
from pipeline.models.assembly import load_backbone
from pipeline.models.backbone import Backbone
from pipeline.models.loading import model_fingerprint, resolve_lora
from tests.model_folders import FOLDERS, save_tiny_autoencoder

_QUERY = {
    "sd1": "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q",
    "sdxl": "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q",
    "sd3": "transformer.transformer_blocks.1.attn.to_q",
}
_TEXT = {
    "sd1": "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
    "sdxl": "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj",
    "sd3": "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder per family."""
    root = tmp_path_factory.mktemp("families")
    return {name: FOLDERS[name](root / name) for name in _QUERY}


def _module(model: Backbone, name: str) -> torch.nn.Module:
    """A layer by its name in files of LoRA weights, where text encoders have a level that only some have themselves."""
    part, _, rest = name.partition(".")
    network = getattr(model._pipeline, part)
    return network.get_submodule(rest if hasattr(network, "text_model") else rest.removeprefix("text_model."))


def _lora(file: Path, model: Backbone, *names: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Write LoRA weights of rank 2 for some layers; returns what they add to each."""
    generator, tensors, added = torch.Generator().manual_seed(seed), {}, {}
    for name in names:
        rows, columns = _module(model, name).weight.shape
        up, down = torch.randn(rows, 2, generator=generator), torch.randn(2, columns, generator=generator)
        tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
        added[name] = up @ down
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file)
    return added


@pytest.mark.parametrize("name", _QUERY)
def test_lora_weights_are_added_at_their_scales(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """Those of the denoiser and of a text encoder, of several files; and the layers are plain ones again."""
    plain = load_backbone(str(folders[name]), "cpu")
    one, two = tmp_path / "one" / "pytorch_lora_weights.safetensors", tmp_path / "two.safetensors"
    first = _lora(one, plain, _QUERY[name], _TEXT[name])
    second = _lora(two, plain, _QUERY[name], seed=1)
    fused = load_backbone(str(folders[name]), "cpu", lora=[f"{one.parent}:0.5", f"{two}:-2"])
    expected = {
        _QUERY[name]: 0.5 * first[_QUERY[name]] - 2 * second[_QUERY[name]],
        _TEXT[name]: 0.5 * first[_TEXT[name]],
    }
    for layer, added in expected.items():
        module = _module(fused, layer)
        assert type(module) is torch.nn.Linear
        torch.testing.assert_close(module.weight, _module(plain, layer).weight + added, rtol=0, atol=1e-5)
        assert not module.weight.requires_grad
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    inversions = Editor(fused).invert([picture], source_prompts="a red mug", num_inference_steps=2)
    [[unchanged]] = Editor(fused).edit(inversions, prompt="a blue mug", strength=0)
    assert np.array_equal(np.asarray(unchanged), picture)


def test_added_weights_make_another_model(folders: dict[str, Path], tmp_path: Path) -> None:
    """By their contents and scales, and not by where they are."""
    model, plain = str(folders["sd1"]), load_backbone(str(folders["sd1"]), "cpu")
    one, copy, other = (tmp_path / name for name in ("one.safetensors", "copy.safetensors", "other.safetensors"))
    _lora(one, plain, _QUERY["sd1"])
    copy.write_bytes(one.read_bytes())
    _lora(other, plain, _QUERY["sd1"], seed=1)
    tiny = [str(save_tiny_autoencoder(tmp_path / f"tiny-{seed}", seed=seed)) for seed in (0, 1)]
    fingerprints = [
        model_fingerprint(model),
        model_fingerprint(model, [str(one)]),
        model_fingerprint(model, [f"{one}:0.5"]),
        model_fingerprint(model, [str(other)]),
        model_fingerprint(model, [str(one), str(other)]),
        *(model_fingerprint(model, preview_vae=vae) for vae in tiny),
        model_fingerprint(model, [str(one)], tiny[0]),
    ]
    assert len(set(fingerprints)) == len(fingerprints)
    assert model_fingerprint(model, [f"{copy}:1"]) == fingerprints[1]
    assert load_backbone(model, "cpu", lora=[str(one)], preview_vae=tiny[0]).fingerprint == fingerprints[-1]


@pytest.mark.parametrize(
    "content",
    [
        {"unet.nowhere.to_q.lora_A.weight": torch.ones(2, 4), "unet.nowhere.to_q.lora_B.weight": torch.ones(4, 2)},
        {f"{_QUERY['sd1']}.lora_A.weight": torch.ones(2, 7), f"{_QUERY['sd1']}.lora_B.weight": torch.ones(9, 2)},
        {f"{_QUERY['sd3']}.lora_A.weight": torch.ones(2, 4)},
        {"weight": torch.ones(1)},
        b"not safetensors",
    ],
    ids=["no such layer", "other sizes", "another family's", "no LoRA", "damaged"],
)
def test_lora_weights_that_do_not_fit_are_refused(
    content: dict[str, torch.Tensor] | bytes, folders: dict[str, Path], tmp_path: Path
) -> None:
    """In one line that names the file."""
    file = tmp_path / "misfit.safetensors"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        save_file(content, file)
    with pytest.raises(JobError, match=f"lora {file}: ") as caught:
        load_backbone(str(folders["sd1"]), "cpu", lora=[str(file)])
    assert len(str(caught.value).splitlines()) == 1


def test_where_lora_weights_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, the only one in a folder, or a remote one, which is copied; a scale may follow each."""
    monkeypatch.setattr(loading, "_CACHE", tmp_path / "cache")
    file = tmp_path / "folder" / "a.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"weights")
    write_bytes("memory://lora/b.safetensors", b"remote")
    for text, path, scale in (
        (str(file), file, 1.0),
        (f"{file}:0.8", file, 0.8),
        (f"{file.parent}:-1", file, -1.0),
    ):
        assert (resolve_lora(text).path, resolve_lora(text).scale) == (path, scale)
    remote = resolve_lora("memory://lora/b.safetensors:0.3")
    assert (remote.path.read_bytes(), remote.scale) == (b"remote", 0.3)
    (tmp_path / "pickled.bin").write_bytes(b"")
    (file.parent / "second.safetensors").write_bytes(b"")
    for text, message in (
        (f"{tmp_path}/absent.safetensors", "got nothing"),
        (f"{tmp_path}/pickled.bin", r"expected one \.safetensors file; got a file"),
        (str(file.parent), "got 2 of them"),
        ("memory://lora/c.safetensors", "memory://lora/c.safetensors"),
        ("memory://lora/b.bin", r"expected a \.safetensors file"),
    ):
        with pytest.raises(JobError, match=message):
            resolve_lora(text)


def test_a_tiny_autoencoder_in_the_models_place(folders: dict[str, Path], tmp_path: Path) -> None:
    """Makes latents and pixels as its own class does, and the network works on them."""
    folder = save_tiny_autoencoder(tmp_path / "tiny")
    model = load_backbone(str(folders["sd1"]), "cpu", preview_vae=str(folder))
    vae, pixels = model._pipeline.vae, torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        z = vae.encode(pixels * 2 - 1).latents
        torch.testing.assert_close(model.encode_images(pixels), z)
        torch.testing.assert_close(model.decode_latents(z), (vae.decode(z).sample / 2 + 0.5).clamp(0, 1))
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    editor = Editor(model)
    inversions = editor.invert([picture], source_prompts="a red mug", num_inference_steps=2)
    [[unchanged, edited]] = editor.edit(inversions, prompt="a blue mug", strength=[0, 1])
    assert np.array_equal(np.asarray(unchanged), picture)
    assert edited.size == (60, 40)


def test_an_autoencoder_of_other_latents_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """Before anything is made of them."""
    folder = save_tiny_autoencoder(tmp_path / "tiny", latent_channels=16)
    with pytest.raises(JobError, match=r"expected latents of 4 channels and 2 levels.*got 16 and 2"):
        load_backbone(str(folders["sd1"]), "cpu", preview_vae=str(folder))
    with pytest.raises(JobError, match=r"preview_vae .*expected the weights of AutoencoderTiny"):
        load_backbone(str(folders["sd1"]), "cpu", preview_vae=str(folders["sd1"] / "vae"))


@pytest.mark.skipif(torch.backends.mps.is_built(), reason="this build of torch has the device")
def test_a_device_that_is_not_usable_is_the_models_error() -> None:
    """One line, which ends the job: no row is to blame."""
    with pytest.raises(JobError, match=r"^model bundled: mps: .*mps"):
        load_backbone(None, "mps")
