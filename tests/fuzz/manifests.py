"""What a manifest file must come to: rows and refusals, or one line that says why there are none."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from functools import cache
from tempfile import gettempdir

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import JobError
from pipeline.io.manifest import read_images


def parquet_seeds() -> Iterator[bytes]:
    """Image manifests in Parquet: plain, by dictionary, nested, of several row groups and compressions."""
    n = 50
    table = pa.table(
        {
            "image_id": [f"mug-{i}" for i in range(n)],
            "image_uri": [f"photos/{i % 7}.png" for i in range(n)],
            "price": pa.array([None if i % 3 else i / 7 for i in range(n)]),
            "tags": pa.array([[f"t{j}" for j in range(i % 4)] for i in range(n)]),
            "size": pa.array([{"w": i, "h": [i]} for i in range(n)]),
        }
    )
    for compression in ("none", "snappy", "zstd", "gzip"):
        for version in ("1.0", "2.0"):
            buffer = io.BytesIO()
            pq.write_table(table, buffer, compression=compression, row_group_size=20, data_page_version=version)
            yield buffer.getvalue()


@cache
def _path() -> str:
    return os.path.join(gettempdir(), f"fuzz-{os.getpid()}.parquet")  # noqa: PTH118


def outcome(data: bytes) -> str:
    """`decoded`, or `refused` with one line; `message`, where it is not one line."""
    with open(_path(), "wb") as file:  # noqa: PTH123
        file.write(data)
    try:
        read_images(_path())
    except JobError as error:
        return "refused" if len(str(error).splitlines()) == 1 else f"message: {error}"
    return "decoded"
