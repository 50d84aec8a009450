from __future__ import annotations

import pickle

import pytest

from pipeline.errors import JobError, RowError, redacted
from pipeline.io.retries import one_line
from pipeline.io.storage import StorageError
from pipeline.records import Failure, Refusal


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://key:secret@bucket/a: no such object", "s3://***@bucket/a: no such object"),
        ('endpoint URL: "https://user:secret@minio:9000/b"', 'endpoint URL: "https://***@minio:9000/b"'),
        ("https://h/a?X-Amz-Signature=secret&Expires=9 failed", "https://h/a?X-Amz-Signature=***&Expires=9 failed"),
        ("https://h/a?Expires=9&sig=secret", "https://h/a?Expires=9&sig=***"),
        ("s3://bucket/me@home.png", "s3://bucket/me@home.png"),
        ("a mug @ home, s3://bucket/a.png", "a mug @ home, s3://bucket/a.png"),
        ("/photos/what?key", "/photos/what?key"),
    ],
)
def test_credentials_are_left_out_and_nothing_else(text: str, shown: str) -> None:
    """What stands before @, and values that sign a query, are starred; names with @ or ? stay."""
    assert redacted(text) == shown
    assert redacted(shown) == shown


def test_messages_are_one_line_without_control_sequences() -> None:
    """Names in manifests can neither colour a terminal nor forge a second line of a log."""
    hostile = "column a\x1b[31m\r\nerror: all is well\x07\x9b2J"
    for text in (str(JobError(hostile)), str(Refusal("p.csv", 2, hostile)), Failure.of(OSError(hostile), "a").message):
        assert len(text.splitlines()) == 1
        assert text.isprintable()


def test_no_error_of_ours_shows_credentials() -> None:
    """Whoever raises it, also after it has travelled between processes; failures and log lines as well."""
    secret = "s3://key:topsecret@bucket/a"
    errors = [JobError(secret), RowError("image_missing", secret), StorageError(secret, missing=True)]
    for error in [*errors, *pickle.loads(pickle.dumps(errors))]:
        assert "topsecret" not in str(error)
        assert "bucket/a" in str(error)
    assert "topsecret" not in Failure.of(OSError(secret), "a").message
    assert "topsecret" not in one_line(OSError(secret))
