"""What can go wrong, named once: errors that stop a job, and the codes of failures that cost one row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

# What stands before @ in a URI, and what signs or opens it behind the question mark.
_USER: Final = re.compile(r"(?<=://)[^/\s'\"]*@")
_SIGNATURE: Final = re.compile(
    r"""(?i)([?&](?:X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)|AWSAccessKeyId|Signature|sig|(?:access_|auth_)?token"""
    r"""|secret|password|(?:api_?)?key)=)[^&\s'"]+"""
)

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def redacted(text: str) -> str:
    """A text without the credentials of the URIs in it: `s3://***@bucket/key`, `…?Signature=***`."""
    return _SIGNATURE.sub(r"\1***", _USER.sub("***@", text))


def shown(text: str) -> str:
    """A text as terminals and logs may show it: on one line, without credentials and without control sequences."""
    return _CONTROL.sub(" ", redacted(text))


class RelatentError(Exception):
    """Base of every error this project raises on purpose; its text is one line for the user, without credentials."""

    def __init__(self, message: str = "") -> None:
        super().__init__(shown(message))


class JobError(RelatentError, ValueError):
    """The job cannot start: bad configuration, manifest, model or storage. Exit code 2."""


@dataclass(frozen=True, slots=True)
class FailureCode:
    """A way in which one image or edit can fail.

    Attributes:
        stage: where it shows: plan, fetch, decode, invert, edit, publish.
        retryable: whether the same input may succeed later.
        meaning: one sentence for the documentation.
    """

    stage: str
    retryable: bool
    meaning: str


CODES: Final[Mapping[str, FailureCode]] = {
    "row_refused": FailureCode("plan", False, "The manifest row is not valid; the job ran with --skip-invalid."),
    "image_missing": FailureCode("fetch", True, "No object at image_uri; it may arrive later."),
    "mask_missing": FailureCode("fetch", True, "No object at mask_uri; it may arrive later."),
    "storage_unavailable": FailureCode("fetch", True, "The storage did not answer, or refused, after retries."),
    "image_not_decodable": FailureCode("decode", False, "The bytes are not an image of an allowed format."),
    "image_truncated": FailureCode("decode", False, "The image file ends too early or is damaged inside."),
    "image_too_large": FailureCode(
        "decode", False, "The image declares more pixels, or its file has more bytes, than the job allows."
    ),
    "mask_not_decodable": FailureCode("decode", False, "The mask is not a readable image."),
    "mask_wrong_shape": FailureCode("decode", False, "The mask's aspect ratio is not the image's."),
    "original_changed": FailureCode("fetch", False, "The original's sha256 is no longer the artifact's."),
    "artifact_unreadable": FailureCode("invert", True, "A stored inversion could not be read back."),
    "non_finite": FailureCode("invert", False, "Latents or embeddings became NaN or infinite."),
    "out_of_memory": FailureCode("invert", True, "The device's memory did not suffice even for a batch of one."),
    "worker_died": FailureCode(
        "invert", True, "The process that worked on it died, again and again, in the end with nothing else in it."
    ),
    "device_lost": FailureCode(
        "invert", True, "It left the GPU unusable to its process, also with nothing else in it."
    ),
    "timed_out": FailureCode("invert", True, "It took longer than row_seconds, also alone."),
    "decoder_died": FailureCode(
        "decode", True, "The process that read and decoded it died or took too long, also with nothing else in it."
    ),
    "publisher_died": FailureCode(
        "publish", True, "The process that wrote its pictures died or took too long, also with nothing else in it."
    ),
    "publish_failed": FailureCode("publish", True, "The result could not be written."),
    "internal": FailureCode("edit", True, "An unexpected error; the message has its type and text."),
}


class RowError(RelatentError):
    """A failure that costs one row; `code` is a key of `CODES`."""

    def __init__(self, code: str, message: str) -> None:
        assert code in CODES, code
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type[RowError], tuple[str, str]]:
        # Exceptions are rebuilt from `args`, which hold the message alone: it travels between processes.
        return RowError, (self.code, str(self))

    @property
    def stage(self) -> str:
        return CODES[self.code].stage

    @property
    def retryable(self) -> bool:
        return CODES[self.code].retryable
