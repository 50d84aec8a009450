"""Arrays on their way between processes."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.io.arrays import pack_arrays, unpack_arrays


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint8])
def test_arrays_come_back_as_they_were(dtype: type[np.generic]) -> None:
    """Their names, dtypes, shapes and bits; one that lies otherwise in memory, too."""
    values = (np.random.default_rng(0).random((2, 5, 3)) * 200).astype(dtype)
    found = unpack_arrays(pack_arrays({"a": values, "turned": values.transpose(2, 0, 1), "none": values[:0]}))
    for name, expected in (("a", values), ("turned", values.transpose(2, 0, 1)), ("none", values[:0])):
        assert found[name].dtype == dtype
        assert np.array_equal(found[name], expected)
        assert found[name].shape == expected.shape
