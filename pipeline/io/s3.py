"""The file system of S3 buckets."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

from s3fs import S3FileSystem


class StrictS3FileSystem(S3FileSystem):  # type: ignore[misc]
    """s3fs, with one policy of retries, and patterns that miss nothing.

    s3fs leaves the files of a folder that it fails to list out of what matches a pattern.
    """

    # botocore tries again at once, and `io.retries` for minutes, both with jitter; that is enough.
    retries = 1

    async def _walk(self, *words: Any, **options: Any) -> AsyncIterator[Any]:
        async for found in super()._walk(*words, **options | {"on_error": _unless_absent}):
            yield found


def _unless_absent(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def s3() -> StrictS3FileSystem:
    """The file system that the environment describes.

    Instances are cached by these arguments, so a changed environment gets a new one. Credentials stay with the
    environment or workload identity.
    """
    # botocore itself reads only AWS_DEFAULT_REGION.
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return StrictS3FileSystem(
        endpoint_url=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
        client_kwargs={"region_name": region} if region else {},
        use_listings_cache=False,
    )
