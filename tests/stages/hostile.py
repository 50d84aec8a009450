"""Stand-ins for pictures that end the process that reads or writes them, apart from the lighter `victims`."""

from __future__ import annotations

import os
import signal
from typing import Any

from pipeline.stages.fetch import Fetch
from pipeline.stages.publish import Publish, Written
from pipeline.stages.rows import Asked, Fetched, Made


class HostileFetch(Fetch):
    """Fetching whose process the picture of this name ends."""

    def _fetch(self, row: Asked, *words: Any) -> Fetched:
        if row["image_id"] == "hostile":
            os.kill(os.getpid(), signal.SIGSEGV)
        return super()._fetch(row, *words)


class HostilePublish(Publish):
    """Publishing whose process the pictures of this name end."""

    def _write(self, row: Made) -> Written:
        if row["image_id"] == "unpublishable" and row["pictures"] is not None:
            os.kill(os.getpid(), signal.SIGSEGV)
        return super()._write(row)
