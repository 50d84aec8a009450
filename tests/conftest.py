"""Fixtures that tests of several packages share."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.s3_server import BUCKET, environment, s3_server


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
