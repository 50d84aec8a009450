"""Batches in which one bad row costs only itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from pipeline.errors import JobError, RowError
from pipeline.memory import is_out_of_memory

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def each(call: Callable[[Sequence[_Item]], Sequence[_Result]], items: Sequence[_Item]) -> list[_Result | Exception]:
    """Call on all items at once; where that fails, on each alone. What a single item raises stands in its place.

    Raises:
        JobError: the whole job is at fault, not a row.
    """
    if not items:
        return []
    try:
        return list(call(items))
    except JobError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a row costs that row
        if len(items) == 1:
            return [RowError("out_of_memory", str(error).splitlines()[0]) if is_out_of_memory(error) else error]
    # Outside the handler: the error's traceback would keep the failed batch's tensors alive.
    return [result for item in items for result in each(call, [item])]
