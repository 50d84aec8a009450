"""What an output remembers of files that were read."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from s3fs import S3FileSystem

from pipeline.io import stamps as stamps_module
from pipeline.io.artifacts import write_rows
from pipeline.io.sources import NO_MEMORY, remembered, remembered_uris
from pipeline.io.stamps import _just_before, read_stamped, stamps
from pipeline.io.storage import write_bytes
from pipeline.io.transfers import transfers
from pipeline.keys import sha256_hex
from tests.io.rows import NOON


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder on each storage; its files count as settled at once."""
    monkeypatch.setattr(stamps_module, "_SETTLED_NS", -1)
    return str(request.getfixturevalue("s3")) if request.param == "s3" else str(tmp_path / "in")


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts requests to S3 by kind."""
    counted: Counter[str] = Counter()
    call, call_and_wait = S3FileSystem._call_s3, S3FileSystem.call_s3

    async def counting(self: Any, method: str, *words: Any, **named: Any) -> Any:
        counted[method] += 1
        return await call(self, method, *words, **named)

    def counting_too(self: Any, method: str, *words: Any, **named: Any) -> Any:
        counted[method] += 1
        return call_and_wait(self, method, *words, **named)

    monkeypatch.setattr(S3FileSystem, "_call_s3", counting)
    monkeypatch.setattr(S3FileSystem, "call_s3", counting_too)
    return counted


def remember(output: str, uris: list[str]) -> None:
    """Read files, and commit what is to be remembered."""
    rows = []
    for uri in uris:
        data, stamp = read_stamped(uri, 1000)
        assert stamp is not None
        row = {"uri": uri, "size": stamp.size, "version": stamp.version, "sha256": sha256_hex(data)}
        rows.append({**row, "created_at": NOON, "fence": 1})
    write_rows(output, "sources", rows)


def test_unchanged_files_are_recalled_and_no_others(folder: str) -> None:
    """New bytes of the same length, a file that is gone and one that was never read are not; nothing is read."""
    uris = [f"{folder}/{i}.png" for i in range(40)]
    for uri in uris:
        write_bytes(uri, f"bytes of {uri}".encode())
    assert remembered(f"{folder}/out") is NO_MEMORY
    remember(f"{folder}/out", uris[1:])
    write_bytes(uris[2], f"Bytes of {uris[2]}".encode())
    before = transfers()["in"]
    memory = remembered(f"{folder}/out")
    recalled = memory.recall([*uris, f"{folder}/gone.png"])
    assert recalled == {uri: sha256_hex(f"bytes of {uri}".encode()) for uri in uris if uri not in {uris[0], uris[2]}}
    assert transfers()["in"] == before
    assert remembered_uris(f"{folder}/out") == set(uris[1:])


def test_neighbours_on_s3_share_a_request(s3: str, requests: Counter[str]) -> None:
    """32 keys in a row take one listing, every fifth of 100 fewer than there are, two far away one each."""
    keys = [f"{s3}/photos/{i:03}.png" for i in range(100)]
    for key in [*keys, f"{s3}/a", f"{s3}/z"]:
        write_bytes(key, b"x")
    for asked, most in ((keys[50:82], 1), (keys[::5], 7), ([f"{s3}/a", f"{s3}/z"], 2)):
        requests.clear()
        assert stamps(asked).keys() == set(asked)
        assert requests.keys() == {"list_objects_v2"}
        assert requests["list_objects_v2"] <= most


def test_a_storage_that_does_not_tell_is_read(folder: str) -> None:
    """A bucket that is not there, or may not be listed, has no stamps: no error, nothing recalled."""
    write_bytes(f"{folder}/a", b"x")
    remember(f"{folder}/out", [f"{folder}/a"])
    assert remembered(f"{folder}/out").recall(["s3://no-such-bucket-here/a"]) == {}


def test_what_is_still_being_written_is_not_remembered(tmp_path: Path) -> None:
    """A change within the same tick of the clock would not show: such a file has no stamp yet."""
    path = tmp_path / "a"
    path.write_bytes(b"x")
    assert read_stamped(str(path), 10) == (b"x", None)
    os.utime(path, (0, 0))
    assert read_stamped(str(path), 10)[1] is not None


def test_a_copy_with_the_time_of_another_file_is_another_file(tmp_path: Path) -> None:
    """`cp -p` and `rsync -t` give new bytes an old time."""
    path = tmp_path / "a"
    found = []
    for data in (b"x", b"y"):
        path.write_bytes(data)
        os.utime(path, (0, 0))
        found.append(read_stamped(str(path), 10)[1])
    assert found[0] != found[1]


@given(st.text(min_size=1).filter(str.isprintable), st.text(min_size=1).filter(str.isprintable))
@settings(max_examples=50, deadline=None)
def test_a_listing_begins_before_its_key(key: str, other: str) -> None:
    """Whatever the key, it comes after the text that its listing starts behind."""
    assert _just_before(key).encode() < key.encode()
