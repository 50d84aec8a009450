"""Rows of a batch that take a module's output from other rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


@contextlib.contextmanager
def rows_taken(module: torch.nn.Module, rows: Tensor) -> Iterator[None]:
    """Until the context ends, row i of a module's output, or of its first output, is that of row `rows[i]`."""

    def taken(_module: Any, _inputs: Any, output: Any) -> Any:
        return (output[0][rows], *output[1:]) if isinstance(output, tuple) else output[rows]

    hook = module.register_forward_hook(taken)
    try:
        yield
    finally:
        hook.remove()
