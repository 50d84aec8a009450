"""Scores of edits against the truth, and what is said of many of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Final

from pipeline.pixels import Pixels
from pipeline.quality.cases import KINDS, Case
from pipeline.quality.metrics import psnr, ssim_map

# An edit succeeds where, inside the changed region, it is nearer to the truth than the original by this much,
SUCCESS_DB: Final = 3.0
# and keeps what is outside of it this near to the truth.
BACKGROUND_DB: Final = 35.0


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured as an edit was made, and cannot be seen in its output.

    Attributes:
        recon_psnr, vae_psnr: of what the system makes of the image unedited, and of the autoencoder's round trip, to
            the image, in dB; None where there is no such thing.
        inversion_seconds, edit_seconds: the image's share of its batch's time, and the edit's.
        monotonicity: as `running.monotonicity` says; None where it was not measured.
    """

    recon_psnr: float | None = None
    vae_psnr: float | None = None
    inversion_seconds: float = 0.0
    edit_seconds: float = 0.0
    monotonicity: float | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """What one system did with one case.

    Attributes:
        psnr: of the whole output to the truth, in dB.
        inside_psnr, outside_psnr: the same over what the edit truly changes, and over the rest; None where there
            is no rest.
        inside_ssim, outside_ssim: structural similarity to the truth over the same regions.
        gain: by how many dB the output is nearer to the truth inside than the original is.
    """

    kind: str
    psnr: float
    inside_psnr: float
    outside_psnr: float | None
    inside_ssim: float
    outside_ssim: float | None
    gain: float
    measured: Measured = Measured()

    @property
    def nearer(self) -> bool:
        """Whether the edit was made at all."""
        return self.gain >= SUCCESS_DB

    @property
    def success(self) -> bool:
        """Whether it was made, and nothing else changed; not editing, and painting everything anew, both fail."""
        return self.nearer and (self.outside_psnr is None or self.outside_psnr >= BACKGROUND_DB)

    @property
    def worth(self) -> float:
        """The gain, discounted by how much of the background's `BACKGROUND_DB` is missing; a loss counts in full.

        Not editing is worth nothing, however well it keeps the background.
        """
        kept = 1.0 if self.outside_psnr is None else min(self.outside_psnr / BACKGROUND_DB, 1.0)
        return self.gain * kept if self.gain > 0 else self.gain


def score(case: Case, output: Pixels, measured: Measured = Measured()) -> Score:
    """Compare an output with the case's truth."""
    image, truth, result = case.image / 255, case.truth / 255, output / 255
    inside, outside = psnr(result, truth, case.changed), psnr(result, truth, ~case.changed)
    similarity = ssim_map(result, truth)
    return Score(
        kind=case.kind,
        psnr=psnr(result, truth),
        inside_psnr=inside,
        outside_psnr=None if math.isnan(outside) else outside,
        inside_ssim=float(similarity[case.changed].mean()),
        outside_ssim=None if math.isnan(outside) else float(similarity[~case.changed].mean()),
        gain=inside - psnr(image, truth, case.changed),
        measured=measured,
    )


def summarise(scores: Sequence[Score]) -> dict[str, dict[str, float | None]]:
    """Shares, medians and means by kind of edit, and over all of them.

    Systems are scored on the same edits, so the difference of their means is the mean of the differences;
    medians are not moved by a few perfect or hopeless edits. Each says what the other hides.
    """
    by_kind = {kind: [s for s in scores if kind in (s.kind, "all")] for kind in (*KINDS, "all")}
    return {kind: _figures(chosen) for kind, chosen in by_kind.items() if chosen}


def _figures(scores: Sequence[Score]) -> dict[str, float | None]:
    measured = [s.measured for s in scores]
    inversion = mean(m.inversion_seconds for m in measured)
    return {
        "edits": len(scores),
        "success": mean(s.success for s in scores),
        "nearer": mean(s.nearer for s in scores),
        "worth": mean(s.worth for s in scores),
        "psnr": mean(s.psnr for s in scores),
        "inside_psnr": _over(median, (s.inside_psnr for s in scores)),
        "inside_mean": _over(mean, (s.inside_psnr for s in scores)),
        "inside_ssim": _over(mean, (s.inside_ssim for s in scores)),
        "outside_psnr": _over(median, (s.outside_psnr for s in scores)),
        "outside_mean": _over(mean, (s.outside_psnr for s in scores)),
        "outside_ssim": _over(mean, (s.outside_ssim for s in scores)),
        "gain": _over(median, (s.gain for s in scores)),
        "gain_mean": _over(mean, (s.gain for s in scores)),
        "recon_psnr": _over(median, (m.recon_psnr for m in measured)),
        "vae_psnr": _over(median, (m.vae_psnr for m in measured)),
        "monotonicity": _over(mean, (m.monotonicity for m in measured)),
        "inversion_seconds": inversion,
        "seconds": inversion + mean(m.edit_seconds for m in measured),
    }


def _over(statistic: Callable[[list[float]], float], values: Iterable[float | None]) -> float | None:
    """A statistic of the values that are there: an edit that changes everything has no outside."""
    found = [value for value in values if value is not None]
    return statistic(found) if found else None
