"""Model folders made to run code, to read other files or to fill the memory are refused before they are loaded."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import JobError
from pipeline.models.assembly import load_backbone
from pipeline.models.loading import resolve_model
from tests.small_model import save_small_model

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model, as it should be."""
    return save_small_model(tmp_path_factory.mktemp("model") / "whole")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


def set_in(name: str, values: Mapping[str, Any]) -> Change:
    """Set values in one of a folder's JSON files, which is made if it is not there."""

    def change(folder: Path) -> None:
        path = folder / name
        old = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**old, **values}))

    return change


def write(name: str, data: bytes) -> Change:
    """Write a file of the folder."""
    return lambda folder: (folder / name).write_bytes(data)


def cut(folder: Path) -> None:
    """Take the end of a file of weights away."""
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def only_pickles(folder: Path) -> None:
    """Weights as PyTorch used to write them."""
    (folder / "vae" / "diffusion_pytorch_model.safetensors").rename(folder / "vae" / "diffusion_pytorch_model.bin")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (write("pipeline.py", b"raise SystemExit"), "got code, pipeline.py"),
        (write("unet/my_unet.py", b"raise SystemExit"), "got code, unet/my_unet.py"),
        (only_pickles, "expected safetensors weights; got vae/diffusion_pytorch_model.bin"),
        (cut, "not a whole safetensors file"),
        (write("unet/extra.safetensors", (1 << 40).to_bytes(8, "little") + b"{}"), "not a whole safetensors file"),
        (write("unet/extra.safetensors", pickle.dumps([1])), "not a whole safetensors file"),
        (lambda folder: (folder / "vae" / "link.json").symlink_to("/etc/hostname"), "a link out of it, vae/link.json"),
        (lambda folder: (folder / "more").symlink_to("/etc"), "a link out of it, more"),
        (set_in("model_index.json", {"unet": ["os", "system"]}), "unet: expected a class of diffusers"),
        (set_in("model_index.json", {"vae": ["transformers", "AutoModel"]}), "vae: expected a class of diffusers"),
        (set_in("model_index.json", {"extra": ["extra.module", "Evil"]}), "extra: expected a class of diffusers"),
        (set_in("model_index.json", {"_class_name": ["pipeline", "Evil"]}), "expected the name of a pipeline"),
        (set_in("text_encoder/config.json", {"auto_map": {"AutoModel": "evil.Evil"}}), "no code of its own"),
        (set_in("tokenizer/tokenizer_config.json", {"vocab_file": "/etc/passwd"}), "vocab_file: expected a file of"),
        (set_in("unet/x.safetensors.index.json", {"weight_map": {"w": "../../x.safetensors"}}), "files of the folder"),
        (set_in("text_encoder/config.json", {"vocab_size": 10**9}), "vocab_size: expected at most"),
        (set_in("vae/config.json", {"sample_size": 10**1000}), "sample_size: expected at most"),
        (set_in("text_encoder/config.json", {"num_hidden_layers": 10**6}), "num_hidden_layers: expected at most"),
        (set_in("scheduler/scheduler_config.json", {"num_train_timesteps": 10**9}), "num_train_timesteps: expected"),
        (write("unet/config.json", b"{"), "unet/config.json: not JSON"),
        (write("unet/config.json", b"[" * 100_000), "unet/config.json: not JSON"),
        (write("unet/config.json", b"[]"), "unet/config.json: expected an object"),
        (write("model_index.json", b"[]"), "model_index.json: expected an object"),
    ],
)
def test_hostile_folders_are_refused_unloaded(folder: Path, change: Change, reason: str) -> None:
    """Code, pickles, links, foreign classes and files, damaged weights, sizes of no network: one line each."""
    change(folder)
    with pytest.raises(JobError) as raised:
        resolve_model(str(folder))
    assert reason in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def change_weights(part: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    """Change the tensors of one of a folder's parts."""

    def changed(folder: Path) -> None:
        [path] = (folder / part).glob("*.safetensors")
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return changed


def reshape(tensors: dict[str, torch.Tensor]) -> None:
    """Give the first tensor a shape of the same size that it cannot have."""
    name = min(tensors)
    tensors[name] = tensors[name].reshape(1, -1, 1).contiguous()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("change", [dict.popitem, reshape], ids=["missing", "wrong shape"])
def test_weights_that_do_not_fit_are_refused(folder: Path, part: str, change: Any) -> None:
    """Loaders would invent what is missing, and an invented text encoder would edit at random."""
    change_weights(part, change)(folder)
    with pytest.raises(JobError) as raised:
        load_backbone(str(folder), "cpu")
    assert len(str(raised.value).splitlines()) == 1


def test_a_configuration_gets_no_memory_that_its_weights_do_not_fill(folder: Path) -> None:
    """A network 40 times as wide is counted, not built."""
    set_in("unet/config.json", {"block_out_channels": [32, 1280]})(folder)
    with pytest.raises(JobError, match=r"unet: expected \d+ weights, as config.json says; files hold \d+"):
        load_backbone(str(folder), "cpu")


def test_pickles_beside_safetensors_are_not_loaded(folder: Path, tmp_path: Path) -> None:
    """Repositories have both; the pickle would write a file if anything read it."""

    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
            return Path.touch, (tmp_path / "loaded",)

    for name in ("unet/diffusion_pytorch_model.bin", "text_encoder/pytorch_model.bin", "vae/model.pt", "model.ckpt"):
        write(name, pickle.dumps(Evil()))(folder)
    assert load_backbone(str(folder), "cpu").name == str(folder)
    assert not (tmp_path / "loaded").exists()


def test_a_snapshot_of_the_hubs_cache_is_links(whole: Path, tmp_path: Path) -> None:
    """Its files lie beside it among the blobs of its repository, and nowhere else."""
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "rev", tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(path for path in sorted(whole.rglob("*")) if path.is_file()):
        shutil.copyfile(path, blobs / str(number))
        link = snapshot / path.relative_to(whole)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blobs / str(number))
    assert resolve_model(str(snapshot)) == snapshot
    (snapshot / "extra.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(JobError, match="a link out of it"):
        resolve_model(str(snapshot))
