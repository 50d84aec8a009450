"""From a row of the artifact table back to an inversion: read as what it says it is, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from pipeline.errors import RowError
from pipeline.inversion import Inversion, stored_tensors
from pipeline.io.tensors import unpack
from pipeline.keys import ARTIFACT_VERSION
from pipeline.settings import InversionSettings, unused_by
from pipeline.stages.rows import Fetched

# The version of artifacts that name none: they were made before there was a column for it. Those of version 2 among
# them mean the same, and those of version 1 lack a tensor.
_UNNUMBERED: Final = 3
# Of version 3, learned embeddings are as they were, or their directions in eight bits, which say so themselves.
_READ: Final = (3, ARTIFACT_VERSION)
# What settings meant that artifacts do not have: how they were made before these were there. Unguided steps would not
# lead back to their images, and everything was stored.
_OF_OLD: Final[Mapping[str, Any]] = {
    "guidance_share": 1.0,
    "refine_rounds": 0,
    "segments": 5,
    "min_gain": 0.0,
    "artifact": "full",
}


def restored(row: Fetched) -> Inversion | RowError:
    """The inversion that an artifact holds, or `artifact_unreadable` and why."""
    assert row["artifact"] is not None
    assert row["tensors"] is not None
    try:
        return _read(json.loads(row["artifact"]), row["tensors"])
    except Exception as error:  # noqa: BLE001 - whoever wrote it need not be this version, or this project
        return RowError("artifact_unreadable", f"artifact {row['inversion_key'][:12]}…: {_reason(error)}")


def _read(columns: Mapping[str, Any], data: bytes) -> Inversion:
    """An inversion from its columns and its tensors' payload.

    Raises:
        ValueError: it is of another version, or its tensors are not those that its settings say.
        Exception: as whoever reads settings and tensors finds them wrong.
    """
    version = _UNNUMBERED if columns["artifact_version"] is None else columns["artifact_version"]
    if version not in _READ:
        raise ValueError(f"expected version {' or '.join(map(str, _READ))}; got {version}")
    settings = _settings(json.loads(columns["settings"]))
    tensors = unpack(data)
    if missing := stored_tensors(settings) - tensors.keys():
        raise ValueError(
            f"expected the tensors {', '.join(sorted(stored_tensors(settings)))}; got no {', '.join(sorted(missing))}"
        )
    return Inversion(
        tensors=tensors,
        source_prompt=columns["source_prompt"] or "",
        settings=settings,
        size=(columns["width"], columns["height"]),
        vae_psnr=columns["vae_psnr"],
        recon_psnr=columns["recon_psnr"],
        iterations=columns["iterations"],
        seconds=columns["seconds"],
        converged=columns["converged"],
        escalated=columns["escalated"],
    )


def _settings(stored: Mapping[str, Any]) -> InversionSettings:
    """The settings that an artifact was made with. None of them is taken from today's defaults."""
    given = {**_OF_OLD, **stored}
    unused = unused_by(given["method"]) if "method" in given else frozenset[str]()  # once any value was taken there
    if absent := InversionSettings.model_fields.keys() - given.keys() - unused:
        raise ValueError(f"settings: expected {', '.join(sorted(absent))}; got none")
    return InversionSettings.model_validate({name: value for name, value in given.items() if name not in unused})


def _reason(error: Exception) -> str:
    """What is wrong, on one line."""
    if not isinstance(error, ValidationError):
        return str(error) or type(error).__name__
    first = error.errors(include_url=False)[0]
    return ".".join(["settings", *map(str, first["loc"])]) + f": {first['msg'].removeprefix('Value error, ')}"
