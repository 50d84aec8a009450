"""Between the stages' rows and the Arrow tables that Ray moves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import NoneType
from typing import Any, Final, get_args, get_type_hints

import pyarrow as pa

_TYPES: Final = {str: pa.string(), bytes: pa.large_binary(), int: pa.int64(), bool: pa.bool_(), float: pa.float64()}
# The column of the rows of a batch, or of a part of its results.
PART: Final = "part"
_OF_IMAGES: Final = ("image_id", "image_uri", "source_prompt", "mask_uri")
_OF_ARTIFACTS: Final = ("image_sha256", "inversion_key", "fitted_scale")


def asked_table(images: pa.Table, *, of_artifacts: bool) -> pa.Table:
    """A plan's images with the user's columns gathered into one, `carried`, where there are any."""
    ours = (*_OF_IMAGES, *_OF_ARTIFACTS) if of_artifacts else _OF_IMAGES
    own = [name for name in images.column_names if name not in ours]
    table = images.select(list(ours)).combine_chunks()
    if not own:
        return table
    columns = images.select(own).combine_chunks()
    struct = pa.StructArray.from_arrays(
        [_one_array(columns[name]) for name in own], fields=[columns.schema.field(name) for name in own]
    )
    return table.append_column("carried", struct)


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def schema_of(row: type, asked: pa.Schema) -> pa.Schema:
    """The Arrow schema of a row type; its user's columns have the types that they have in the plan's images."""
    fields = [pa.field(name, _type(hint)) for name, hint in get_type_hints(row).items() if name != "carried"]
    if "carried" in get_type_hints(row) and "carried" in asked.names:
        fields.append(asked.field("carried"))
    return pa.schema(fields)


def _type(hint: Any) -> pa.DataType:
    """`str | None`, `Literal["a"]` and `str` are all strings."""
    if hint in _TYPES:
        return _TYPES[hint]
    (kind,) = {arg if isinstance(arg, type) else type(arg) for arg in get_args(hint)} - {NoneType}
    return _TYPES[kind]


def part_schema(rows: pa.Schema) -> pa.Schema:
    """The schema of a table with one row for each batch, or for each part of its results."""
    return pa.schema([pa.field(PART, pa.list_(pa.struct(list(rows))))])


def to_table(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table."""
    return pa.Table.from_pylist(list(rows), schema=schema)
