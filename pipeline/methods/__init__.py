"""The published methods, one file each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pipeline.methods.base import Method
from pipeline.methods.ddim import DDIM
from pipeline.methods.direct import DIRECT
from pipeline.methods.edit_friendly import EDIT_FRIENDLY
from pipeline.methods.negative_prompt import NEGATIVE_PROMPT
from pipeline.methods.null_text import NULL_TEXT
from pipeline.methods.prompt_tuning import PROMPT_TUNING

METHODS: Final[Mapping[str, Method]] = {
    "ddim": DDIM,
    "prompt-tuning": PROMPT_TUNING,
    "null-text": NULL_TEXT,
    "negative-prompt": NEGATIVE_PROMPT,
    "direct": DIRECT,
    "edit-friendly": EDIT_FRIENDLY,
}
