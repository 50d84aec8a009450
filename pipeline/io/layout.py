"""Where things lie in an output folder."""

from __future__ import annotations

from pipeline.io.uris import join


def picture_uri(output: str, image_id: str, edit_id: str, strength: float) -> str:
    """Where an edit's picture goes: images/<image_id>/<edit_id>/<strength>.png."""
    return join(output, "images", image_id, edit_id, f"{repr(float(strength)).removesuffix('.0')}.png")


def run_record_uri(output: str) -> str:
    """Where a finished job's record is."""
    return join(output, "run.json")


def leases_uri(output: str) -> str:
    """Where an output's leases are: who writes there, and who did."""
    return join(output, "leases")


def lease_uri(output: str, token: int) -> str:
    """Where the lease of this number is."""
    return join(leases_uri(output), f"{token:016}.json")
