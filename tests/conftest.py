"""Fixtures that tests of several packages share."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest

from tests.faults import Proxy, faulty
from tests.s3_server import BUCKET, environment, s3_server

# Ray's workers are nice by default and starve beside whatever else a small machine does; the commands' time
# limits should not depend on that. Set here, before Ray is imported, for this process and those it starts.
os.environ.setdefault("RAY_worker_niceness", "0")

# Where test processes run side by side, each has a core; torch reads this when it is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running S3 server; the environment points to it for the rest of the session."""
    with s3_server(tmp_path_factory.mktemp("s3")) as endpoint, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(endpoint).items():
            patch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        yield endpoint


@pytest.fixture
def s3(s3_endpoint: str) -> str:
    """An `s3://bucket/prefix` that no other test uses."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture
def proxy(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy that everything goes through. What it does is up to our own retries, not botocore's."""
    with faulty(s3_endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        yield proxy
