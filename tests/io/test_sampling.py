"""A few of many, the same few every time."""

from __future__ import annotations

import random

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.io.sampling import chosen_rows, sample


@given(st.lists(st.text(), unique=True), st.integers(1, 20), st.randoms(use_true_random=False))
def test_a_sample_depends_on_the_names_alone(names: list[str], size: int, rng: random.Random) -> None:
    """The same names are chosen in any order, and a larger sample contains a smaller one."""
    chosen = {names[i] for i in sample(names, size)}
    assert len(chosen) == min(size, len(names))
    mixed = rng.sample(names, len(names))
    assert {mixed[i] for i in sample(mixed, size)} == chosen
    assert chosen <= {names[i] for i in sample(names, size + 3)}


def test_a_sample_is_spread() -> None:
    """Of consecutive names about as many come from either half."""
    assert 30 < sum(i < 500 for i in sample([str(i) for i in range(1000)], 100)) < 70


def test_rows_are_chosen_in_their_order_within_the_limit() -> None:
    """The limit counts from the first row; the sample is of what is within it."""
    table = pa.table({"image_id": [f"image {i}" for i in range(100)]})
    first = chosen_rows(table, 10, None)["image_id"].to_pylist()
    assert first == table["image_id"].to_pylist()[:10]
    few = chosen_rows(table, 10, 4)["image_id"].to_pylist()
    assert len(few) == 4
    assert few == [name for name in first if name in few]
    assert chosen_rows(table, None, None).equals(table)
    assert len(chosen_rows(table, None, 1000)) == 100
