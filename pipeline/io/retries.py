"""Trying again what may pass: outages, time-outs and overload of a storage service."""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable
from typing import Final, TypeVar

from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]
from botocore.exceptions import ConnectionError as EndpointError
from s3fs.core import S3_RETRYABLE_ERRORS

from pipeline.errors import redacted

_T = TypeVar("_T")
_LOG: Final = logging.getLogger("relatent.storage")

# The pauses add up to between 60 and 122 seconds: an outage of a minute passes.
_ATTEMPTS: Final = 10
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0

# s3fs itself does not try again when nothing listens at the endpoint.
_TRANSIENT: Final = (*S3_RETRYABLE_ERRORS, EndpointError, TimeoutError)
_TRANSIENT_STATUS: Final = {429, 500, 502, 503, 504}
_TRANSIENT_CODES: Final = {"SlowDown", "RequestTimeout", "Throttling", "ThrottlingException"}

STORAGE_ERRORS: Final = (OSError, BotoCoreError, ClientError, *_TRANSIENT)


def with_retries(what: str, action: Callable[[], _T]) -> _T:
    """Run an action until it succeeds or fails for good; pauses double, with jitter.

    Raises:
        Exception: one of `STORAGE_ERRORS`: the last attempt's, or the first that trying again cannot help.
    """
    for attempt in range(_ATTEMPTS - 1):
        try:
            return action()
        except STORAGE_ERRORS as error:
            if not _is_transient(error):
                raise
            pause = min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE) * random.uniform(0.5, 1)
            _LOG.warning("%s: %s; trying again in %.1f s", what, one_line(error), pause)
            time.sleep(pause)
    return action()


def _is_transient(error: BaseException) -> bool:
    status, code = answer(error)
    return isinstance(error, _TRANSIENT) or status in _TRANSIENT_STATUS or code in _TRANSIENT_CODES


def answer(error: BaseException) -> tuple[int, str]:
    """The HTTP status and code of what a service answered; 0 and nothing if it did not.

    s3fs translates an answer into an OSError and keeps it as its cause.
    """
    answered = error if isinstance(error, ClientError) else error.__cause__
    response = getattr(answered, "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return int(status), str(response.get("Error", {}).get("Code", ""))


def one_line(error: BaseException) -> str:
    """What an exception says, on one line and without credentials; its type if it says nothing."""
    text = getattr(error, "strerror", None) or str(error)
    return redacted(re.sub(r"\s+", " ", text).strip())[:300] or type(error).__name__
