"""What happens in a run, told through the standard library's logging, and as lines of JSON where they are asked for."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

LOG: Final = logging.getLogger("relatent")
# Events are for who asks for their lines: without a handler Python would print their bare names, as it prints warnings.
_EVENTS: Final = logging.getLogger("relatent.events")
_EVENTS.addHandler(logging.NullHandler())

# What of a committed row is told; the rest is in its table.
_OF_AN_INVERSION: Final = ("image_id", "image_uri", "inversion_key", "recon_psnr", "iterations", "seconds")
_OF_AN_EDIT: Final = ("image_id", "edit_id", "strength", "edit_key", "prompt", "image_uri", "seconds")
_OF_A_FAILURE: Final = ("image_id", "edit_id", "strength", "stage", "code", "message", "retryable", "attempts")
# Fields that are prompts, and those whose text may quote one.
_PROMPTS: Final = {"prompt"}
_QUOTING: Final = {"message", "reason"}

_SECRETS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN")
_LIKE_A_KEY: Final = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|(?<=://)[^/\s\"@]+:[^/\s\"@]+@")
_HIDDEN: Final = "[hidden]"


def tell(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Tell one event with its fields, which JSON can hold."""
    _EVENTS.log(level, event, extra={"fields": fields})


def tell_missing_scores(missing: Mapping[str, str]) -> None:
    """Tell of scores that weights are named for and that are missing, and why: name → reason."""
    for score, reason in missing.items():
        tell("score_missing", logging.WARNING, score=score, reason=reason)


def tell_committed(
    inversions: Iterable[Mapping[str, Any]], edits: Iterable[Mapping[str, Any]], failures: Iterable[Mapping[str, Any]]
) -> None:
    """Tell of each row that was committed to the tables."""
    if not LOG.isEnabledFor(logging.INFO):
        return
    for event, level, rows, names in (
        ("inverted", logging.INFO, inversions, _OF_AN_INVERSION),
        ("edited", logging.INFO, edits, _OF_AN_EDIT),
        ("failed", logging.WARNING, failures, _OF_A_FAILURE),
    ):
        for row in rows:
            tell(event, level, **{name: row[name] for name in names})


class JsonLines(logging.Formatter):
    """One line of JSON per event: time, level, run, event, and its fields. Never a credential.

    Args:
        run: identity of the run.
        redact_prompts: put the first 12 digits of a prompt's sha256 in its place, and leave out messages and reasons,
            which may quote one.
    """

    def __init__(self, run: str, *, redact_prompts: bool) -> None:
        super().__init__()
        self._run = run
        self._redact = redact_prompts

    def format(self, record: logging.LogRecord) -> str:
        event, fields = record.getMessage(), dict[str, Any](getattr(record, "fields", None) or {})
        if record.name.partition(".")[0] != LOG.name:  # other libraries' words are no names of events
            event, fields = "log", {"logger": record.name, "message": event}
        if self._redact:
            fields = {name: _redacted(name, value) for name, value in fields.items() if name not in _QUOTING}
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "run": self._run,
            "event": event,
            **fields,
        }
        return without_secrets(json.dumps(line, ensure_ascii=False, default=str))


def without_secrets(text: str) -> str:
    """A text without the credentials of this process's environment, nor anything that looks like some."""
    for name in _SECRETS:
        if secret := os.environ.get(name):
            text = text.replace(secret, _HIDDEN)
    return _LIKE_A_KEY.sub(_HIDDEN, text)


def _redacted(name: str, value: Any) -> Any:
    if name not in _PROMPTS or value is None:
        return value
    return "sha256:" + hashlib.sha256(str(value).encode()).hexdigest()[:12]
