"""What the speed benchmark found: figures per system, and how they compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.quality.speed.systems import ALONE, IN_BATCHES


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of one system; `invert_s` is per image, `edit_s` per edit.

    Attributes:
        recon_psnr: mean over the same photographs for all systems, in dB.
        peak_mb: as `peak_memory` has it.
        flops_per_s: of inversions and edits, networks alone.
        images, edits: what the seconds are means of.
        iterations: gradient steps per image; None where nothing is fitted.
        ours: whether this is one of the project's own.
    """

    invert_s: float
    edit_s: float
    recon_psnr: float
    peak_mb: float | None
    flops_per_s: float
    images: int
    edits: int
    iterations: float | None
    ours: bool
    settings: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.invert_s:.3f} s per image, {self.edit_s:.3f} s per edit, {self.recon_psnr:.2f} dB"

    def end_to_end_s(self, edits: int) -> float:
        """Seconds for one image and so many edits of it."""
        return self.invert_s + edits * self.edit_s


@dataclass(frozen=True, slots=True)
class SpeedReport:
    """All that was measured.

    Attributes:
        model: the model's fingerprint.
        matmul_flops: FLOP/s of a matrix product in the network's precision, the fastest seen in the run.
        vae_psnr: what the autoencoder alone leaves of the photographs that reconstruction is measured on, in dB.
        fixed_iterations: fits took their full number of iterations; reconstruction then means nothing.
        compiled: the network was compiled, in ours.
        skipped: peers that could not run on this model, with why.
        max_pixel_difference: of outputs made in a batch to those made alone, in levels of 255; None unless both ran.
    """

    machine: str
    model: str
    matmul_flops: float
    vae_psnr: float
    recon_images: int
    edits_per_image: int
    fixed_iterations: bool
    compiled: bool
    systems: Mapping[str, Figures]
    skipped: Mapping[str, str]
    max_pixel_difference: int | None

    def as_json(self) -> dict[str, Any]:
        systems = {name: asdict(f) | {"flops_utilisation": self.utilisation(f)} for name, f in self.systems.items()}
        return asdict(self) | {"systems": systems, "speedups": self.speedups(), "batch_gain": self.batch_gain}

    def utilisation(self, figures: Figures) -> float:
        """What a system's networks compute in a second, as a share of what the machine's matrix product does."""
        return figures.flops_per_s / self.matmul_flops

    def speedups(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """Of each preset over each other system: how many times faster, and by how many dB it reconstructs better.

        `invert` is None over a system that does not invert; `end_to_end` is an image with all of its edits.
        """
        presets = {name: f for name, f in self.systems.items() if f.ours and name != ALONE}
        others = {name: f for name, f in self.systems.items() if not f.ours}
        return {
            name: {other: self._over(figures, theirs) for other, theirs in others.items()}
            for name, figures in presets.items()
        }

    def _over(self, ours: Figures, theirs: Figures) -> dict[str, float | None]:
        k = self.edits_per_image
        return {
            "invert": theirs.invert_s / ours.invert_s if theirs.invert_s else None,
            "end_to_end": theirs.end_to_end_s(k) / ours.end_to_end_s(k),
            "recon_db": ours.recon_psnr - theirs.recon_psnr,
        }

    @property
    def batch_gain(self) -> float | None:
        """How many times faster images with their edits are in a batch than alone."""
        if not {ALONE, IN_BATCHES} <= self.systems.keys():
            return None
        alone, together = (self.systems[name].end_to_end_s(self.edits_per_image) for name in (ALONE, IN_BATCHES))
        return alone / together

    def table(self) -> str:
        """Everything but the settings, as Markdown."""
        lines = [
            f"{self.machine}; matrix product {self.matmul_flops / 1e9:.0f} GFLOP/s; VAE {self.vae_psnr:.2f} dB"
            + ("; fixed iterations" if self.fixed_iterations else "")
            + ("; ours compiled" if self.compiled else ""),
            "",
            "| system | invert, s | edit, s | reconstruction, dB | peak, MB | of matrix product | iterations |",
            "|---|---|---|---|---|---|---|",
            *(_row(name, figures, self.utilisation(figures)) for name, figures in self.systems.items()),
            "",
            f"| | over | invert | image with {self.edits_per_image} edits | reconstruction, dB |",
            "|---|---|---|---|---|",
            *(
                f"| {name} | {other} | {_times(r['invert'])} | {_times(r['end_to_end'])} | {r['recon_db']:+.2f} |"
                for name, others in self.speedups().items()
                for other, r in others.items()
            ),
        ]
        if self.batch_gain is not None:
            difference = f"largest pixel difference {self.max_pixel_difference} of 255"
            lines += ["", f"{IN_BATCHES} in a batch, over one at a time: {self.batch_gain:.2f} × faster; {difference}"]
        lines += [f"{name}: skipped ({why})" for name, why in self.skipped.items()]
        return "\n".join(lines)


def _row(name: str, f: Figures, utilisation: float) -> str:
    peak = "–" if f.peak_mb is None else f"{f.peak_mb:.0f}"
    iterations = "–" if f.iterations is None else f"{f.iterations:.0f}"
    return (
        f"| {name} | {f.invert_s:.3f} | {f.edit_s:.3f} | {f.recon_psnr:.2f} | {peak} | "
        f"{utilisation:.0%} | {iterations} |"
    )


def _times(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.1f} ×"
