"""The published methods, one file each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pipeline.methods.base import Method
from pipeline.methods.ddim import DDIM
from pipeline.methods.prompt_tuning import PROMPT_TUNING

METHODS: Final[Mapping[str, Method]] = {
    "ddim": DDIM,
    "prompt-tuning": PROMPT_TUNING,
}
