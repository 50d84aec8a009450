"""Rows of a batch that take a module's output from other rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor


class RowsTaken:
    """A hook on a module for good, so that a compiled network needs to be compiled with it once."""

    def __init__(self, module: Any) -> None:
        self._module = module
        module.rows_taken = None
        module.register_forward_hook(_taken)

    @property
    def rows(self) -> Tensor | None:
        """The rows that are taken now."""
        found: Tensor | None = self._module.rows_taken
        return found

    @contextlib.contextmanager
    def from_rows(self, rows: Tensor | None) -> Iterator[None]:
        """Until the context ends, row i of the module's output, or of its first output, is that of row `rows[i]`."""
        self._module.rows_taken = rows
        try:
            yield
        finally:
            self._module.rows_taken = None


def _taken(module: Any, _inputs: Any, output: Any) -> Any:
    rows = module.rows_taken
    if rows is None:
        return output
    return (output[0][rows], *output[1:]) if isinstance(output, tuple) else output[rows]
