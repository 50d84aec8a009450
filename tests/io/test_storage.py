from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from pipeline.io import folders, retries, storage
from pipeline.io.listing import temporary_files
from pipeline.io.storage import StorageError


@pytest.fixture(params=["local", "s3", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder on each storage."""
    if request.param == "s3":
        return str(request.getfixturevalue("s3"))
    return str(tmp_path / "store") if request.param == "local" else f"memory://{tmp_path.name}"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, which are recorded instead of waited for."""
    waited: list[float] = []
    monkeypatch.setattr(retries.time, "sleep", waited.append)
    return waited


def test_what_is_written_is_read_back(folder: str) -> None:
    """Bytes, in whole and in part, come back as they went in, also below names with odd characters."""
    uri = storage.join(folder, "a b", "Ünïcode+%20&=#1.bin")
    storage.write_bytes(uri, b"0123456789")
    storage.write_bytes(uri, b"abcdefghij")
    assert storage.read_bytes(uri) == b"abcdefghij"
    assert storage.read_part(uri, lambda file: (file.seek(-3, os.SEEK_END), file.read(2))[1]) == b"hi"


def test_existence(folder: str) -> None:
    """Files and folders exist once something is written, and only then."""
    uri = storage.join(folder, "a/b.txt")
    assert not storage.exists(uri)
    assert not storage.is_folder(folder)
    storage.write_bytes(uri, b"x")
    assert storage.exists(uri)
    assert storage.is_folder(storage.join(folder, "a"))
    assert not storage.is_folder(uri)


def test_to_check_that_a_folder_is_writable_leaves_no_file(folder: str, tmp_path: Path) -> None:
    """A folder that is not there yet is writable; one below a file is not."""
    storage.check_writable(folder)
    # Some S3 stores keep and list the emptied folder itself; it must still be one for the next run.
    assert set(storage.list_files(folder)) <= {folder}
    assert storage.is_folder(folder) or not storage.exists(folder)
    storage.write_bytes(storage.join(folder, storage.PROBE), b"")  # by one that was killed there
    assert list(temporary_files(folder)) == [storage.join(folder, storage.PROBE)]
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        storage.check_writable(str(tmp_path / "file" / "below"))


def test_listing_is_recursive_sorted_and_complete(folder: str) -> None:
    """All files below a folder are listed with URIs that can be read, and nothing beside it."""
    names = ["b/2.parquet", "a/1.parquet", "a/deep/er/3.parquet", "note.txt"]
    for name in names:
        storage.write_bytes(storage.join(folder, "in", name), name.encode())
    storage.write_bytes(storage.join(folder, "in2", "x.parquet"), b"")
    found = storage.list_files(storage.join(folder, "in"), ".parquet")
    assert found == sorted(storage.join(folder, "in", name) for name in names[:3])
    assert storage.read_bytes(found[0]) == b"a/1.parquet"
    assert len(storage.list_files(storage.join(folder, "in/"))) == 4


def test_a_reader_may_bound_what_it_reads(folder: str) -> None:
    """A file of exactly the limit is read, also an empty one; of a larger one no more than the limit is."""
    storage.write_bytes(f"{folder}/a", b"123")
    storage.write_bytes(f"{folder}/empty", b"")
    assert storage.read_bytes(f"{folder}/a", 3) == b"123"
    assert storage.read_bytes(f"{folder}/empty", 3) == b""
    with pytest.raises(storage.TooLargeError, match="at most 2 bytes"):
        storage.read_bytes(f"{folder}/a", 2)


def test_names_in_capitals_are_other_names(folder: str, tmp_path: Path) -> None:
    """Neither Linux's file systems nor object storage fold them; a folder that does holds each name's twin."""
    assert not storage.folds_case(f"{folder}/not/there")
    (tmp_path / "folds").mkdir()
    (tmp_path / "FOLDS").symlink_to(tmp_path / "folds")
    assert storage.folds_case(str(tmp_path / "folds"))


def test_an_absent_folder_lists_nothing(folder: str) -> None:
    """A first run finds no files, and no error."""
    assert storage.list_files(storage.join(folder, "nowhere")) == []


def test_patterns_match_files(folder: str) -> None:
    """Wildcards select files, never folders."""
    for name in ("a.png", "b.jpg", "sub/c.png"):
        storage.write_bytes(storage.join(folder, name), b"x")
    assert storage.glob(storage.join(folder, "*.png")) == [storage.join(folder, "a.png")]
    assert len(storage.glob(storage.join(folder, "**/*.png"))) == 2


def test_a_missing_object_is_told_apart(folder: str) -> None:
    """What is not there raises an error that says so and names it."""
    with pytest.raises(StorageError, match="no such file or object") as raised:
        storage.read_bytes(storage.join(folder, "absent.png"))
    assert raised.value.missing
    assert "absent.png" in str(raised.value)


def test_more_files_than_a_page_are_listed(s3: str) -> None:
    """An S3 listing goes on after its first 1,000 keys."""
    names = [f"{s3}/{i:04}" for i in range(1005)]
    threads = [
        threading.Thread(target=lambda part: [storage.write_bytes(n, b"") for n in part], args=(names[i::8],))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert storage.list_files(s3) == names


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader sees the old content or the new one; no temporary file stays behind."""
    uri = str(tmp_path / "row.parquet")
    storage.write_bytes(uri, b"old")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", fail)
    with pytest.raises(StorageError, match="No space left on device"):
        storage.write_bytes(uri, b"new")
    assert storage.read_bytes(uri) == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["row.parquet"]


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    """Devices and pipes, whose reading may never end, and folders are refused."""
    os.mkfifo(tmp_path / "pipe")
    for uri in (str(tmp_path / "pipe"), "/dev/zero", str(tmp_path)):
        with pytest.raises(StorageError, match="expected a regular file"):
            storage.read_bytes(uri)


@pytest.mark.parametrize("uri", ["gs://bucket/key", "http://host/x", "s3://", "/a\x00b", "s3://Bad_Bucket!/x"])
def test_uris_that_cannot_be_read_are_refused(uri: str) -> None:
    """Foreign schemes, missing or impossible buckets and NUL characters are storage errors."""
    with pytest.raises(StorageError):
        storage.read_bytes(uri)


def test_wrong_credentials_are_refused_at_once(s3: str, monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> None:
    """A wrong secret is an access error, is not tried again, and does not appear in the message."""
    # Another session: the cached one has already signed in.
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(StorageError, match="access denied") as raised:
        storage.read_bytes(f"{s3}/x")
    assert not raised.value.missing
    assert "not-the-secret" not in str(raised.value)
    assert pauses == []


def test_an_outage_is_waited_out(s3: str, monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> None:
    """Attempts go on, with growing pauses, until the server answers."""
    storage.write_bytes(f"{s3}/x", b"x")
    fs, _ = storage._locate(s3)
    read, failures = fs.cat_file, [EndpointConnectionError(endpoint_url="http://127.0.0.1"), _answer(503, "SlowDown")]

    def sometimes(path: str) -> bytes:
        if failures:
            raise failures.pop()
        return bytes(read(path))

    monkeypatch.setattr(fs, "cat_file", sometimes)
    assert storage.read_bytes(f"{s3}/x") == b"x"
    assert len(pauses) == 2
    assert 0.25 <= pauses[0] <= 0.5 <= pauses[1] <= 1.0


def test_patience_ends(pauses: list[float]) -> None:
    """An outage that does not pass is raised after a minute of pauses at least, whatever their jitter."""
    calls = []

    def fail() -> None:
        calls.append(1)
        raise TimeoutError("no answer")

    with pytest.raises(TimeoutError, match="no answer"):
        retries.with_retries("s3://bucket/key", fail)
    assert len(calls) == len(pauses) + 1
    assert 60 < sum(pauses) < 122


@pytest.mark.parametrize(("status", "code"), [(404, "NoSuchKey"), (403, "AccessDenied"), (501, "NotImplemented")])
def test_final_answers_are_not_asked_for_again(status: int, code: str, pauses: list[float]) -> None:
    """An answer that will stay the same is raised at once."""

    def fail() -> None:
        raise _answer(status, code)

    with pytest.raises(ClientError):
        retries.with_retries("s3://bucket/key", fail)
    assert pauses == []


def _answer(status: int, code: str) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")


def test_errors_travel_between_processes() -> None:
    """A storage error keeps its text and kind when it is pickled."""
    error = pickle.loads(pickle.dumps(StorageError("s3://b/k: gone", missing=True)))
    assert (str(error), error.missing) == ("s3://b/k: gone", True)


def test_a_folder_is_copied_whole(folder: str, tmp_path: Path) -> None:
    """A model folder arrives with its subfolders; an older copy is left as it is."""
    files = {"model_index.json": b"{}", "unet/config.json": b"{1}", "unet/weights.safetensors": b"\0" * 100}
    for name, data in files.items():
        storage.write_bytes(storage.join(folder, "model", name), data)
    target = tmp_path / "cache" / "copy"
    folders.copy_folder(storage.join(folder, "model"), target)
    folders.copy_folder(storage.join(folder, "model/"), target)
    copied = {p.relative_to(target).as_posix(): p.read_bytes() for p in target.rglob("*") if p.is_file()}
    assert copied == files
    assert [p.name for p in target.parent.iterdir()] == ["copy"]


def test_a_folders_version_follows_its_files(folder: str) -> None:
    """It stays while nothing changes, and a file replaced by one of the same size is another version."""
    storage.write_bytes(storage.join(folder, "model/a.json"), b"one")
    before = folders.folder_version(storage.join(folder, "model"))
    assert folders.folder_version(storage.join(folder, "model")) == before
    storage.write_bytes(storage.join(folder, "model/a.json"), b"two")
    replaced = folders.folder_version(storage.join(folder, "model"))
    storage.write_bytes(storage.join(folder, "model/b.json"), b"")
    assert len({before, replaced, folders.folder_version(storage.join(folder, "model"))}) == 3


def test_a_folder_that_is_not_there_is_not_copied(folder: str, tmp_path: Path) -> None:
    """Copying nothing is an error, and leaves nothing."""
    with pytest.raises(StorageError, match="no files") as raised:
        folders.copy_folder(storage.join(folder, "absent"), tmp_path / "copy")
    with pytest.raises(StorageError, match="no files"):
        folders.folder_version(storage.join(folder, "absent"))
    assert raised.value.missing
    assert not (tmp_path / "copy").exists()
