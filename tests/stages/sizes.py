"""The one size at which the stand-in for the editor works; light, since several processes import it."""

from __future__ import annotations

SIDE = 16


def working_size(width: int, height: int) -> tuple[int, int]:
    """That of any image."""
    return SIDE, SIDE
