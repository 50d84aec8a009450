"""Where a model comes from: remote folders are copied, and copied again when they change."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from pipeline.errors import JobError
from pipeline.io import folders
from pipeline.io.storage import write_bytes
from pipeline.models import loading


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setattr(loading, "_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.mark.usefixtures("cache")
def test_new_weights_under_an_old_uri_are_another_model() -> None:
    """The fingerprint follows what the remote folder holds now."""
    uri = "memory://models/replaced"
    write_bytes(f"{uri}/model_index.json", b"{}")
    write_bytes(f"{uri}/unet/weights.safetensors", save({"w": torch.zeros(3)}))
    old, folder = loading.model_fingerprint(uri), loading.resolve_model(uri)
    assert loading.resolve_model(uri) == folder
    write_bytes(f"{uri}/unet/weights.safetensors", save({"w": torch.ones(3)}))
    assert loading.model_fingerprint(uri) != old


@pytest.mark.usefixtures("cache")
def test_a_remote_folder_that_is_not_there_is_a_clear_error() -> None:
    """One line that names it."""
    with pytest.raises(JobError, match="memory://models/absent"):
        loading.resolve_model("memory://models/absent")


@pytest.mark.usefixtures("cache")
def test_actors_that_begin_together_copy_a_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others wait for whoever was first; a model is gigabytes, and each of a machine's GPUs has an actor."""
    uri, copies = "memory://models/popular", list[Path]()
    write_bytes(f"{uri}/model_index.json", b"{}")
    copy_folder = folders.copy_folder

    def slowly(uri: str, target: Path) -> None:
        copies.append(target)
        time.sleep(0.2)
        copy_folder(uri, target)

    monkeypatch.setattr(folders, "copy_folder", slowly)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(loading.resolve_model, [uri] * 4)) == set(copies)
    assert len(copies) == 1
