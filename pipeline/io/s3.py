"""The file system of S3 buckets."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any, Final

from s3fs import S3FileSystem

_READS: Final = {"get_object", "head_object"}


class StrictS3FileSystem(S3FileSystem):  # type: ignore[misc]
    """s3fs, with one policy of retries, patterns that miss nothing, and objects that are absent where they are denied.

    s3fs leaves the files of a folder that it fails to list out of what matches a pattern.
    """

    # botocore tries again at once, and `io.retries` for minutes, both with jitter; that is enough.
    retries = 1

    async def _call_s3(self, method: str, *words: Any, **request: Any) -> Any:
        try:
            return await super()._call_s3(method, *words, **request)
        except PermissionError:
            if method in _READS and await self._is_absent(request["Bucket"], request["Key"]):
                raise FileNotFoundError(f"{request['Bucket']}/{request['Key']}") from None
            raise

    async def _is_absent(self, bucket: str, key: str) -> bool:
        """Whether an object that may not be read is not there; a store tells only those who may list its whole bucket.

        Who may list some prefixes alone (infra/kuberay/bucket-policy.json) can still ask for a listing of this one key.
        """
        try:
            found = await super()._call_s3("list_objects_v2", Bucket=bucket, Prefix=key, MaxKeys=1)
        except PermissionError:
            return False
        return all(entry["Key"] != key for entry in found.get("Contents", ()))

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
