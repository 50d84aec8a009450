"""The gate behind an inversion: what falls short of the autoencoder is inverted again, by the next presets."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.config import JobConfig
from pipeline.settings import InversionSettings

if TYPE_CHECKING:  # the model's libraries come with it, and fetching needs none of them
    from pipeline.inversion import Inversion

_Row = TypeVar("_Row")


def falls_short(recon_psnr: float, vae_psnr: float, margin: float) -> bool:
    """Whether a reconstruction is more than `margin` dB below the autoencoder's own."""
    return not recon_psnr >= vae_psnr - margin


def inverted_until_near(
    invert: Callable[[Sequence[_Row], InversionSettings], Sequence[Inversion | Exception]],
    rows: Sequence[_Row],
    config: JobConfig,
) -> list[Inversion | Exception]:
    """Invert images, and those that fall short of the margin again under each of the job's escalations in turn.

    Of an image's attempts the best reconstruction is kept, with the seconds of all of them; an attempt that fails
    costs nothing but its time. Only the rows that still fall short are tried again, together.
    """
    kept = list(invert(rows, config.inversion))
    for preset, settings in config.escalations.items():
        short = [i for i, found in enumerate(kept) if _is_short(found, config.qa_margin)]
        if not short:
            break
        for i, again in zip(short, invert([rows[i] for i in short], settings), strict=True):
            kept[i] = _better(kept[i], again, config.preset, preset)
    return kept


def _is_short(found: Inversion | Exception, margin: float) -> bool:
    return not isinstance(found, Exception) and falls_short(found.recon_psnr, found.vae_psnr, margin)


def _better(best: Inversion | Exception, again: Inversion | Exception, own: str, preset: str) -> Inversion:
    assert not isinstance(best, Exception)
    best = dataclasses.replace(best, escalated=best.escalated or own)
    if isinstance(again, Exception):
        return best
    seconds = best.seconds + again.seconds
    if again.recon_psnr > best.recon_psnr or math.isnan(best.recon_psnr):
        return dataclasses.replace(again, seconds=seconds, escalated=preset)
    return dataclasses.replace(best, seconds=seconds)


def escalation_identity(config: JobConfig) -> dict[str, Any] | None:
    """What of a job's escalation can change an inversion; goes into its key."""
    rungs = [settings.identity() for settings in config.escalations.values()]
    return {"margin": config.qa_margin, "settings": rungs} if rungs else None
