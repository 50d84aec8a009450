"""How a lack of memory shows."""

from __future__ import annotations

import re
from typing import Final

import torch

# CUDA's own error, those of cuBLAS, cuDNN and their like (CUBLAS_STATUS_ALLOC_FAILED), and torch's where the host has
# no more ("DefaultCPUAllocator: can't allocate memory").
_IN_OTHER_WORDS: Final = re.compile(r"out of memory|_ALLOC_FAILED|can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice, a GPU's or the host's."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and _IN_OTHER_WORDS.search(str(error)) is not None
    )
