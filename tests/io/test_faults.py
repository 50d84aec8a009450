"""Object storage that fails: every fifth request, all of them for a while, or for good."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipeline.io import folders, retries, storage
from pipeline.io.storage import StorageError
from tests.faults import FAULTS, Proxy


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, which are recorded instead of waited for."""
    waited: list[float] = []
    monkeypatch.setattr(retries.time, "sleep", waited.append)
    return waited


def test_every_operation_gives_what_it_gives_undisturbed(
    proxy: Proxy, s3: str, pauses: list[float], tmp_path: Path
) -> None:
    """Errors, resets, lost, slow and truncated answers on a fifth of all requests change no result."""
    rng = np.random.default_rng(0)
    files = {f"{s3}/{i % 3}/{i}": rng.bytes(2 ** (i % 18)) for i in range(24)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(storage.write_bytes, files, files.values()))
        assert list(pool.map(storage.read_bytes, files)) == list(files.values())
        assert list(pool.map(lambda uri: storage.read_bytes(uri, 2**20), files)) == list(files.values())
        assert list(pool.map(storage.size, files)) == [len(data) for data in files.values()]
        parts = pool.map(lambda uri: storage.read_part(uri, lambda file: (file.seek(1), file.read())[1]), files)
        assert list(parts) == [data[1:] for data in files.values()]
        assert all(pool.map(storage.exists, files))
        assert not any(pool.map(lambda uri: storage.exists(f"{uri}-absent"), files))
        assert list(pool.map(lambda uri: storage.read_if_there(f"{uri}-absent"), files)) == [None] * len(files)
        assert all(pool.map(storage.is_folder, [f"{s3}/{i}" for i in range(3)] * 4))
        assert list(pool.map(storage.list_files, [s3] * 8)) == [sorted(files)] * 8
        assert list(pool.map(storage.glob, [f"{s3}/*/1*"] * 8)) == [sorted(f for f in files if "/1" in f[-3:])] * 8
        assert len(set(pool.map(folders.folder_version, [s3] * 8))) == 1
    folders.copy_folder(s3, tmp_path / "copy")
    assert {
        f"{s3}/{p.relative_to(tmp_path / 'copy')}": p.read_bytes() for p in (tmp_path / "copy").rglob("*/*")
    } == files
    assert set(FAULTS) <= proxy.met.keys()


def test_a_pattern_leaves_out_no_folder(proxy: Proxy, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be listed at first is listed later, and not taken for an empty one."""
    proxy.share = 0
    files = [f"{s3}/{folder}/x.png" for folder in "abc"]
    for file in files:
        storage.write_bytes(file, b"x")
    proxy.always, proxy.only = "500", "%2Fb%2F"
    monkeypatch.setattr(retries.time, "sleep", lambda seconds: setattr(proxy, "always", None))
    assert storage.glob(f"{s3}/*/x.png") == files
    assert proxy.met["500"] == 1


def test_expired_credentials_are_one_line_at_once(proxy: Proxy, s3: str, pauses: list[float]) -> None:
    """Nothing is tried again, and the words say what it is, as far as the store does."""
    proxy.always = "400"
    for action in (
        storage.read_if_there,
        lambda uri: storage.write_bytes(uri, b"x"),
        storage.list_files,
        storage.size,
        storage.read_bytes,
        lambda uri: storage.read_bytes(uri, 10),
    ):
        with pytest.raises(StorageError, match="credentials have expired"):
            action(f"{s3}/x")
    assert pauses == []
