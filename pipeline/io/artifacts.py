"""Tables of results: their schemas, and Parquet files named by the keys they hold."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.io import storage
from pipeline.keys import artifact_row_key, content_key, sha256_hex

Kind = Literal["inversions", "edits", "withdrawals", "failures", "sources"]

# Of tensors that are read together with the one that is wanted: about what the answer to a request takes to begin.
_GROUP_BYTES: Final = 1 << 20
# Before a user's column that has the name of one of ours.
_CARRIED: Final = "carried_"
_TIME: Final = pa.timestamp("us", tz="UTC")


def _required(name: str, type_: pa.DataType) -> pa.Field:
    return pa.field(name, type_, nullable=False)


# The number of the lease under which a row was committed: a later run's rows are newer, whatever its clock says.
_FENCE: Final = pa.field("fence", pa.int64())

INVERSION_SCHEMA: Final = pa.schema(
    [
        _required("inversion_key", pa.string()),
        _required("image_id", pa.string()),
        _required("image_uri", pa.string()),
        _required("image_sha256", pa.string()),
        pa.field("source_prompt", pa.string()),
        _required("model", pa.string()),
        _required("model_fingerprint", pa.string()),
        _required("method", pa.string()),
        _required("settings", pa.string()),
        pa.field("artifact_version", pa.int32()),
        _required("width", pa.int32()),
        _required("height", pa.int32()),
        pa.field("frames", pa.int32()),
        _required("tensors", pa.binary()),
        _required("tensor_index", pa.string()),
        pa.field("vae_psnr", pa.float32()),
        pa.field("recon_psnr", pa.float32()),
        pa.field("iterations", pa.int32()),
        pa.field("converged", pa.bool_()),
        pa.field("escalated", pa.string()),
        pa.field("seconds", pa.float32()),
        _required("relatent_version", pa.string()),
        _required("created_at", _TIME),
        _FENCE,
    ]
)

EDIT_SCHEMA: Final = pa.schema(
    [
        _required("edit_key", pa.string()),
        _required("image_id", pa.string()),
        _required("edit_id", pa.string()),
        _required("strength", pa.float64()),
        _required("inversion_key", pa.string()),
        _required("image_uri", pa.string()),
        _required("prompt", pa.string()),
        pa.field("negative_prompt", pa.string()),
        pa.field("source_prompt", pa.string()),
        pa.field("guidance_scale", pa.float64()),
        pa.field("hold_structure", pa.float64()),
        pa.field("hold_self_attention", pa.float64()),
        pa.field("hold_cross_attention", pa.float64()),
        pa.field("word_weights", pa.string()),
        pa.field("variation", pa.float64()),
        pa.field("seed", pa.int64()),
        _required("width", pa.int32()),
        _required("height", pa.int32()),
        _required("sha256", pa.string()),
        pa.field("background_psnr", pa.float32()),
        pa.field("mask_coverage", pa.float32()),
        pa.field("recon_psnr", pa.float32()),
        pa.field("vae_psnr", pa.float32()),
        pa.field("converged", pa.bool_()),
        pa.field("escalated", pa.string()),
        pa.field("clip_similarity", pa.float32()),
        pa.field("structure_distance", pa.float32()),
        pa.field("lpips", pa.float32()),
        pa.field("qa_flags", pa.list_(pa.string())),
        pa.field("seconds", pa.float32()),
        _required("created_at", _TIME),
        _FENCE,
    ]
)

# An edit whose picture another edit is about to replace. From then on it is not there, whatever becomes of the other.
WITHDRAWAL_SCHEMA: Final = pa.schema(
    [
        _required("image_id", pa.string()),
        _required("edit_id", pa.string()),
        _required("strength", pa.float64()),
        _required("created_at", _TIME),
        _FENCE,
    ]
)

FAILURE_SCHEMA: Final = pa.schema(
    [
        _required("image_id", pa.string()),
        pa.field("edit_id", pa.string()),
        pa.field("strength", pa.float64()),
        _required("stage", pa.string()),
        _required("code", pa.string()),
        _required("message", pa.string()),
        _required("retryable", pa.bool_()),
        _required("attempts", pa.int32()),
        pa.field("image_uri", pa.string()),
        pa.field("input_sha256", pa.string()),
        _required("created_at", _TIME),
        _FENCE,
    ]
)

# What a file that a manifest names held when it had this stamp: as long as it has it, nobody need read it to know.
SOURCE_SCHEMA: Final = pa.schema(
    [
        _required("uri", pa.string()),
        _required("size", pa.int64()),
        _required("version", pa.string()),
        _required("sha256", pa.string()),
        _required("created_at", _TIME),
        _FENCE,
    ]
)

# A row of this code says that its image did not fail when it was looked at again, and so ends the failure before it.
RECOVERED: Final = "recovered"

SCHEMAS: Final[Mapping[Kind, pa.Schema]] = {
    "inversions": INVERSION_SCHEMA,
    "edits": EDIT_SCHEMA,
    "withdrawals": WITHDRAWAL_SCHEMA,
    "failures": FAILURE_SCHEMA,
    "sources": SOURCE_SCHEMA,
}
KEY_COLUMNS: Final[Mapping[Kind, str]] = {"inversions": "inversion_key", "edits": "edit_key"}
# The columns that say what a row is, apart from when it was: a task that is run again overwrites its own file. With the
# fence among them, a run that was taken over, and does not know it yet, does not overwrite a later one's rows.
IDENTIFYING: Final[Mapping[Kind, Sequence[str]]] = {
    "inversions": ("inversion_key", "image_id"),
    "edits": ("edit_key", "fence"),
    "withdrawals": ("image_id", "edit_id", "strength", "fence"),
    "failures": ("image_id", "edit_id", "strength", "code", "message", "attempts", "input_sha256", "fence"),
    "sources": ("uri", "size", "version", "sha256"),
}


def write_rows(output: str, kind: Kind, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Commit rows as one Parquet file: once it is there they are done.

    Args:
        output: the job's output folder.
        kind: which table.
        rows: the schema's columns, of which nullable ones may be absent, and under `carried` a mapping
            of the user's own columns.

    Returns:
        The file's URI; it names the set of keys it holds. None if there are no rows.

    Raises:
        ValueError: a row lacks a required column or has an unknown one.
        StorageError: the file could not be written.
    """
    return write_table(output, kind, _table(kind, rows)) if rows else None


def write_table(output: str, kind: Kind, table: pa.Table) -> str:
    """Commit the rows of a table of this kind, of which there are some, as one Parquet file; its URI.

    Raises:
        StorageError: the file could not be written.
    """
    buffer = io.BytesIO()
    # No statistics of tensors, which would be their first kilobytes once more.
    measured = [name for name in table.column_names if name != "tensors"]
    pq.write_table(table, buffer, compression="zstd", row_group_size=_group_rows(table), write_statistics=measured)
    uri = storage.join(output, kind, f"{_name(identities(kind, table))}.parquet")
    storage.write_bytes(uri, buffer.getvalue())
    return uri


def _group_rows(table: pa.Table) -> int | None:
    """Rows of a row group: of inversions few, since who reads one reads its group; None: as many as is usual.

    With one to a group a list of all keys takes 150 µs a row, with five 30, and the footer shrinks likewise.
    """
    if "tensors" not in table.column_names:
        return None
    rows: int = _GROUP_BYTES * len(table) // max(table["tensors"].nbytes, 1)
    return max(1, rows)


def identities(kind: Kind, table: pa.Table) -> list[str]:
    """What each row is, apart from when it was made: the same row again has the same one."""
    columns = [table[name].to_pylist() for name in IDENTIFYING[kind]]
    return [_identity(kind, dict(zip(IDENTIFYING[kind], values, strict=True))) for values in zip(*columns, strict=True)]


def _name(of_rows: list[str]) -> str:
    return sha256_hex(json.dumps(sorted(of_rows)).encode())[:32]


def _identity(kind: Kind, row: Mapping[str, Any]) -> str:
    if kind == "inversions":
        return artifact_row_key(row["inversion_key"], row["image_id"])
    if kind == "edits":
        return f"{row['edit_key']} {row['fence']}"
    return content_key(row)


def _table(kind: Kind, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    schema = SCHEMAS[kind]
    for row in rows:
        _check(kind, row)
    columns = {field.name: pa.array([row.get(field.name) for row in rows], field.type) for field in schema}
    table = pa.Table.from_arrays(list(columns.values()), schema=schema)
    for name, values in _carried(rows, taken=set(schema.names)).items():
        table = table.append_column(name, values)
    return table


def _check(kind: Kind, row: Mapping[str, Any]) -> None:
    schema = SCHEMAS[kind]
    if unknown := row.keys() - set(schema.names) - {"carried"}:
        raise ValueError(f"{kind} row: unknown columns {', '.join(sorted(unknown))}")
    if absent := [f.name for f in schema if not f.nullable and row.get(f.name) is None]:
        raise ValueError(f"{kind} row: required columns without a value: {', '.join(absent)}")


def _carried(rows: Sequence[Mapping[str, Any]], taken: set[str]) -> dict[str, pa.Array]:
    """The user's columns, under names that are not ours."""
    columns: dict[str, pa.Array] = {}
    for name in sorted({name for row in rows for name in row.get("carried") or {}}):
        own = name
        while own in taken or own in columns:
            own = _CARRIED + own
        columns[own] = _values([(row.get("carried") or {}).get(name) for row in rows])
    return columns


def users_name(column: str) -> str:
    """What a carried column of the artifact table was called in the image manifest."""
    name = column.removeprefix(_CARRIED)
    return name if name in INVERSION_SCHEMA.names else column


def _values(values: list[Any]) -> pa.Array:
    # A column of nulls alone would be of type null, which readers cannot merge with other files' type.
    if all(value is None for value in values):
        return pa.array(values, pa.string())
    return pa.array(values)
