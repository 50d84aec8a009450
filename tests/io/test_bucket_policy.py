"""A real S3 server that allows no more than infra/kuberay/bucket-policy.json, and answers as AWS does."""

from __future__ import annotations

import fnmatch
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml

from pipeline.config import JobConfig
from pipeline.io import storage
from pipeline.io.artifacts import write_rows
from pipeline.io.folders import folder_version
from pipeline.io.lease import held, writer
from pipeline.io.listing import list_sizes
from pipeline.io.outcomes import committed_edits
from pipeline.io.stamps import stamps
from pipeline.planning import read_plan
from tests.faults import Proxy
from tests.infra.rendering import render
from tests.io.rows import edit_row, key_of
from tests.s3_server import BUCKET
from tests.small_job import photograph

_ACTIONS: Final = {"GET": "s3:GetObject", "HEAD": "s3:GetObject", "PUT": "s3:PutObject", "DELETE": "s3:DeleteObject"}


def allowing(policy: Mapping[str, Any]) -> Callable[[str, str], bool]:
    """What a policy allows, by a request's method and path."""
    allowed = [one for one in policy["Statement"] if one["Effect"] == "Allow"]

    def allows(method: str, path: str) -> bool:
        parts = urlsplit(path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        action = _ACTIONS[method] if key else "s3:ListBucket"
        prefix = parse_qs(parts.query).get("prefix", [None])[0]
        return any(
            action in _listed(one["Action"])
            and _matches(f"arn:aws:s3:::{bucket}" + (f"/{key}" if key else ""), one["Resource"])
            and ("Condition" not in one or _matches(prefix, one["Condition"]["StringLike"]["s3:prefix"]))
            for one in allowed
        )

    return allows


def _listed(one: Any) -> list[str]:
    return one if isinstance(one, list) else [one]


def _matches(text: str | None, patterns: Any) -> bool:
    return text is not None and any(fnmatch.fnmatchcase(text, pattern) for pattern in _listed(patterns))


@pytest.fixture
def shop(s3: str, proxy: Proxy, tmp_path: Path) -> str:
    """A bucket's folder with manifests, a photograph and a model, seen by a job's role."""
    storage.write_bytes(f"{s3}/photos/0.png", photograph(0))
    storage.write_bytes(f"{s3}/manifests/images.csv", b"image_id,image_uri\n0,../photos/0.png\n")
    storage.write_bytes(f"{s3}/manifests/autumn.jsonl", b'{"edit_id": "blue", "prompt": "a blue mug"}\n')
    storage.write_bytes(f"{s3}/models/small/model_index.json", b"{}")
    storage.write_bytes(f"{s3}/elsewhere/secret", b"x")
    root = s3.removeprefix(f"s3://{BUCKET}/")
    folders = {"read": "manifests", "photos": "photos", "model": "models", "output": "autumn"}
    values = {"bucket": BUCKET, **{f"{name}_prefix": f"{root}/{folder}" for name, folder in folders.items()}}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    policy = json.loads(render("kuberay/bucket-policy.json", tmp_path / "values.yaml").stdout)
    proxy.share, proxy.allows = 0, allowing(policy)
    return s3


def test_a_job_gets_by_with_what_the_policy_allows(shop: str, caplog: pytest.LogCaptureFixture) -> None:
    """It plans, leases, writes, lists, recalls and removes, also where all that it looks for is absent as yet."""
    output = f"{shop}/autumn"
    config = JobConfig(images=f"{shop}/manifests/images.csv", prompts=f"{shop}/manifests/autumn.jsonl", output=output)
    assert read_plan("run", config).edits == 1
    assert folder_version(f"{shop}/models/small")
    storage.check_writable(output)
    with held(output) as fence:
        fence.check()
        assert writer(output) is not None
        write_rows(output, "edits", [edit_row("0", edit_key=key_of("0"), fence=fence.token)])
        assert key_of("0") in committed_edits(output)
        assert len(list_sizes(output)) == len(storage.list_files(output))
        for uri in storage.list_files(output, ".parquet"):
            storage.remove(uri)
    photo = f"{shop}/photos/0.png"
    assert storage.exists(photo)
    assert not storage.exists(f"{photo}x")
    assert storage.size(photo) == len(photograph(0))
    assert storage.glob(f"{shop}/photos/*.png") == [photo]
    assert stamps([photo, f"{shop}/photos/absent/1.png"]).keys() == {photo}
    assert read_plan("run", config).edits == 1
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_what_is_denied_is_not_taken_for_absent(shop: str) -> None:
    """Where a role may not even list, nobody tells."""
    for read in (storage.read_if_there, storage.exists, storage.size, storage.read_bytes):
        with pytest.raises(storage.StorageError, match="access denied") as denied:
            read(f"{shop}/elsewhere/secret")
        assert not denied.value.missing


def test_an_object_that_may_be_listed_and_not_read_is_denied(shop: str, proxy: Proxy) -> None:
    """That it is there is known, so nothing is made in its place."""
    policy = proxy.allows
    assert policy is not None
    proxy.allows = lambda method, path: policy(method, path) and not urlsplit(path).path.endswith(".png")
    with pytest.raises(storage.StorageError, match="access denied"):
        storage.read_if_there(f"{shop}/photos/0.png")
    assert storage.read_if_there(f"{shop}/photos/1.jpg") is None
