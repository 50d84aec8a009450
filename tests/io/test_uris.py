from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.io.uris import (
    UriRefusedError,
    canonical,
    check_allowed,
    join,
    parent,
    pattern_root,
    resolve,
    scheme_of,
)


@pytest.mark.parametrize(
    ("base", "parts", "joined"),
    [
        ("s3://bucket", ("a", "b.png"), "s3://bucket/a/b.png"),
        ("s3://bucket/", ("a/", "/b.png"), "s3://bucket/a/b.png"),
        ("/data/out/", ("images",), "/data/out/images"),
        ("out", ("images", "x"), "out/images/x"),
        ("/", ("x",), "/x"),
        ("", ("x",), "x"),
    ],
)
def test_joining_puts_one_slash_between_names(base: str, parts: tuple[str, ...], joined: str) -> None:
    """Slashes at the seams are neither lost nor doubled."""
    assert join(base, *parts) == joined


@pytest.mark.parametrize(
    ("uri", "folder", "absolute"),
    [
        ("photos/a.png", "/data/m", "/data/m/photos/a.png"),
        ("../photos/a.png", "/data/m", "/data/photos/a.png"),
        ("/other/a.png", "/data/m", "/other/a.png"),
        ("file:///other/a.png", "/data/m", "/other/a.png"),
        ("s3://b/a.png", "/data/m", "s3://b/a.png"),
        ("photos/a.png", "s3://bucket/m", "s3://bucket/m/photos/a.png"),
        ("../photos/a b%20c.png", "s3://bucket/m", "s3://bucket/photos/a b%20c.png"),
        ("../../../../etc/passwd", "s3://bucket/m", "s3://bucket/etc/passwd"),
        ("a.png", "s3://bucket", "s3://bucket/a.png"),
        ("S3://bucket/a.png", "s3://other", "s3://bucket/a.png"),
    ],
)
def test_relative_uris_resolve_against_the_folder(uri: str, folder: str, absolute: str) -> None:
    """Absolute URIs stay, relative ones start at the folder, and `..` stays inside the bucket."""
    assert resolve(uri, folder) == absolute


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40))
def test_a_remote_manifest_reads_nothing_but_its_storage(uri: str) -> None:
    """Whatever text a manifest on S3 gives as a URI, it is refused or it is on S3."""
    try:
        absolute = resolve(uri, "s3://bucket/folder")
        check_allowed(absolute, "s3://bucket/folder/images.csv")
    except UriRefusedError:
        return
    assert absolute.startswith("s3://")


@pytest.mark.parametrize(
    "uri",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "memory://x",
        "http://169.254.169.254/latest/meta-data",
        "gs://bucket/key",
        "local:///etc/passwd",
        "s3://bucket/folder/../../other/key",
        "simplecache::file:///etc/passwd",
        "filecache::s3://bucket/key",
        "zip://etc/passwd::file:///tmp/a.zip",
        "s3://bucket/key::file:///etc/passwd",
        "s3://key:secret@bucket/a.png",
    ],
)
def test_a_remote_manifest_may_not_name_other_storage(uri: str) -> None:
    """Local files and other schemes are refused in one line that names the URI."""
    with pytest.raises(UriRefusedError) as refused:
        check_allowed(resolve(uri, "s3://bucket"), "s3://bucket/images.csv")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("uri", ["http://host/a.png", "gs://bucket/a.png", "/a\x00b.png", "s3://b/a\nb"])
def test_a_local_manifest_may_name_only_files_and_s3(uri: str) -> None:
    """Schemes that are not ours, and control characters, are refused everywhere."""
    with pytest.raises(UriRefusedError):
        check_allowed(uri, "/data/images.csv")


@pytest.mark.parametrize("uri", ["/a.png", "s3://bucket/a.png"])
def test_a_local_manifest_may_name_files_and_s3(uri: str) -> None:
    """Both storages of the project are allowed to a local manifest."""
    check_allowed(uri, "/data/images.csv")


@pytest.mark.parametrize(
    ("uri", "allowed"),
    [
        ("s3://bucket/photos/a.png", True),
        ("s3://bucket/photos", True),
        ("s3://bucket/photos-of-others/a.png", False),
        ("s3://bucket/a.png", False),
        ("s3://other/photos/a.png", False),
        ("S3://bucket/photos/a.png", True),
        ("/data/in/a.png", True),
        ("file:///data/in/a.png", True),
        ("/data/in/../secret.png", False),
        ("/data/input/a.png", False),
        ("s3://bucket/photos/../a.png", False),
    ],
)
def test_prefixes_narrow_what_may_be_named(uri: str, allowed: bool) -> None:
    """With prefixes only what is below one of them is allowed: whole names, after `..` is resolved."""
    prefixes = [canonical(prefix) for prefix in ("s3://bucket/photos/", "file:///data/in")]
    try:
        check_allowed(resolve(uri, "/data"), "/data/images.csv", prefixes)
    except UriRefusedError:
        assert not allowed
    else:
        assert allowed


def test_a_refused_uri_keeps_its_credentials() -> None:
    """What a manifest gives away is not given away again in messages."""
    for uri in ("s3://key:topsecret@bucket/a.png", "https://host/a.png?X-Amz-Signature=topsecret&x=1"):
        with pytest.raises(UriRefusedError, match=r"\*\*\*") as refused:
            check_allowed(uri, "/data/images.csv")
        assert "topsecret" not in str(refused.value)


def test_parents_and_pattern_roots() -> None:
    """A file's folder, and the folder before a pattern's first wildcard."""
    assert parent("/data/images.csv") == "/data"
    assert parent("s3://bucket/images.csv") == "s3://bucket"
    assert parent("s3://bucket/a/images.csv") == "s3://bucket/a"
    assert pattern_root("/data/a*/x/*.png") == "/data"
    assert pattern_root("s3://bucket/a/**/*.png") == "s3://bucket/a"
    assert pattern_root("s3://bucket/*.png") == "s3://bucket"
    assert pattern_root("*.png") == str(Path.cwd())


def test_file_uris_are_paths() -> None:
    """`file://` is another spelling of a path, not another storage."""
    assert scheme_of("file:///a/b") == ""
    assert canonical("file:///a/./b/../c") == "/a/c"
