"""A stand-in for a picture that ends its decoder, apart from the lighter `victims`."""

from __future__ import annotations

import os
import signal
from typing import Any

from pipeline.stages.fetch import Fetch
from pipeline.stages.rows import Asked, Fetched


class HostileFetch(Fetch):
    """Fetching whose process the picture of this name ends."""

    def _fetch(self, row: Asked, *words: Any) -> Fetched:
        if row["image_id"] == "hostile":
            os.kill(os.getpid(), signal.SIGSEGV)
        return super()._fetch(row, *words)
