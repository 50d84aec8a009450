"""How a lack of memory shows."""

from __future__ import annotations

from typing import Final

import torch

# cuBLAS, cuDNN and their like say so in words of their own: CUBLAS_STATUS_ALLOC_FAILED.
_IN_OTHER_WORDS: Final = "_ALLOC_FAILED"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice, a GPU's or the host's."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and _IN_OTHER_WORDS in str(error)
    )
