"""Rows become Arrow tables and back."""

from __future__ import annotations

import pyarrow as pa

from pipeline.cluster.tables import asked_table, schema_of, to_table
from pipeline.stages.rows import Asked, Made


def images() -> pa.Table:
    """A plan's images with one column of the user's."""
    return pa.table(
        {
            "image_id": ["a", "b"],
            "image_uri": ["a.png", "b.png"],
            "source_prompt": [None, "x"],
            "mask_uri": pa.nulls(2, pa.string()),
            "label": pa.array([1, None], pa.int8()),
        }
    )


def test_own_columns_are_gathered() -> None:
    """The user's columns travel as one, with their types."""
    table = asked_table(images(), of_artifacts=False)
    assert table.to_pylist()[0]["carried"] == {"label": 1}
    assert schema_of(Asked, table.schema).field("carried").type == pa.struct({"label": pa.int8()})


def test_a_column_named_like_an_artifacts_is_the_users() -> None:
    """Only a plan over artifacts has keys of ours; in a manifest such a column is carried like any other."""
    table = images().append_column("inversion_key", pa.array(["x", "y"]))
    assert "inversion_key" not in asked_table(table, of_artifacts=False).column_names
    assert asked_table(table, of_artifacts=False).to_pylist()[1]["carried"]["inversion_key"] == "y"


def test_without_own_columns_there_is_none() -> None:
    """A manifest of our columns alone has nothing to carry."""
    table = asked_table(images().drop_columns("label"), of_artifacts=False)
    assert "carried" not in table.column_names
    assert "carried" not in schema_of(Made, table.schema).names


def test_no_rows_still_have_the_schema() -> None:
    """An empty part of a stage has the columns of a full one."""
    schema = schema_of(Made, asked_table(images(), of_artifacts=False).schema)
    assert to_table([], schema).schema == schema
    assert schema.field("pictures").type == pa.large_binary()
