"""In which precision networks run."""

from __future__ import annotations

import contextlib
from typing import Any

import torch


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[Any]:
    """A context whose products are taken in `dtype`; weights stay in float32."""
    return torch.autocast(device.type, dtype, enabled=dtype is not torch.float32)
