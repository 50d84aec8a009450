"""The log's lines."""

from __future__ import annotations

import json
import logging

import pytest

from pipeline.cluster import events as from_workers
from pipeline.events import LOG, JsonLines, tell, tell_committed, without_secrets
from tests.io.rows import edit_row, failure_row, inversion_row


def lines_of(told: list[str], *, redact_prompts: bool = False) -> list[dict[str, object]]:
    """What the driver would write of events that a worker told."""
    formatter = JsonLines("run 1", redact_prompts=redact_prompts)
    return [json.loads(formatter.format(logging.makeLogRecord(json.loads(record)))) for record in told]


def test_each_committed_row_is_an_event_with_its_ids() -> None:
    """Run, image and edit are named; the time is when it happened, also where the driver tells it later."""
    with from_workers.collected(wanted=True) as told:
        tell_committed([inversion_row("a")], [edit_row("a")], [failure_row("b", message="no object")])
    inverted, edited, failed = lines_of(told)
    assert (inverted["event"], inverted["run"], inverted["image_id"]) == ("inverted", "run 1", "a")
    assert (edited["event"], edited["edit_id"], edited["strength"], edited["level"]) == ("edited", "blue", 1.0, "info")
    assert (failed["event"], failed["code"], failed["level"]) == ("failed", "image_missing", "warning")
    assert failed["message"] == "no object"


def test_without_a_log_nothing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Rows cost nothing where nobody listens, and the logger is left as it was."""
    with from_workers.collected(wanted=False) as told:
        tell_committed([inversion_row("a")], [], [failure_row("b")])
    assert (told, LOG.handlers, LOG.level) == ([], [], logging.NOTSET)


def test_prompts_are_hashed_on_request() -> None:
    """The same prompt has the same hash, and what may quote it is left out."""
    with from_workers.collected(wanted=True) as told:
        rows = [edit_row(name, prompt="a secret chair") for name in "ab"]
        tell_committed([], rows, [failure_row("c", message="edit 'a secret chair': not finite")])
    first, second, failed = lines_of(told, redact_prompts=True)
    assert first["prompt"] == second["prompt"] != "a secret chair"
    assert "message" not in failed
    assert "secret chair" not in json.dumps([first, second, failed])


def test_no_credential_is_ever_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the environment, what looks like a key, and a password in a URI are hidden in every field."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    with from_workers.collected(wanted=True) as told:
        tell("failed", message="bad key AKIAIOSFODNN7EXAMPLE wJalrXUtnFEMI at https://me:pass@store/x")
    text = JsonLines("run", redact_prompts=False).format(logging.makeLogRecord(json.loads(told[0])))
    for secret in ("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI", "me:pass"):
        assert secret not in text
    assert without_secrets("s3://bucket/a@b:c") == "s3://bucket/a@b:c"


def test_what_other_libraries_log_is_no_event_of_ours() -> None:
    """It is a line like any other, with its words as the message, which redaction leaves out."""
    record = logging.LogRecord("elsewhere", logging.WARNING, "", 0, "cut off: %s", ("a secret chair",), None)
    full, redacted = (json.loads(JsonLines("run", redact_prompts=on).format(record)) for on in (False, True))
    assert (full["event"], full["logger"], full["message"]) == ("log", "elsewhere", "cut off: a secret chair")
    assert (redacted["logger"], "message" in redacted) == ("elsewhere", False)
