"""`relatent bench quality`: reconstruction and true-edit scores of every system, as one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from pipeline.batch import Inversion
from pipeline.config import EditSettings, InversionSettings
from pipeline.editor import Editor
from pipeline.quality.benchmark import (
    KINDS,
    System,
    held_out_cases,
    invert_all,
    run_system,
    standard_systems,
    summarise,
)

# The strength at which the bundled model's edits were scored best; see infra/decisions.
FULL_STRENGTH = 1.0


@dataclass(frozen=True, slots=True)
class QualityReport:
    """What the bench measured.

    Attributes:
        scenes: how many held-out scenes.
        model: the model's fingerprint.
        reconstruction: name → median PSNR over scenes, in dB; "VAE round trip" is the ceiling.
        systems: name → kind → success, gain and the medians and means of PSNR inside and outside.
    """

    scenes: int
    model: str
    reconstruction: dict[str, float]
    systems: dict[str, dict[str, dict[str, float]]]

    def as_json(self) -> dict[str, Any]:
        return {
            "scenes": self.scenes,
            "model": self.model,
            "reconstruction": self.reconstruction,
            "systems": self.systems,
        }


def measure_quality(editor: Editor, n_scenes: int, batch: int) -> QualityReport:
    """Run every system over `n_scenes` held-out scenes and all kinds of edits."""
    cases = held_out_cases(n_scenes, editor.working_size(1, 1)[0])
    full = System(InversionSettings(), EditSettings(), FULL_STRENGTH)
    systems = standard_systems(full.inversion.guidance_scale, full)
    inverted: dict[InversionSettings, list[Inversion]] = {}

    def inversions_for(settings: InversionSettings) -> list[Inversion]:
        if settings not in inverted:
            inverted[settings] = invert_all(editor, cases, settings, batch)
        return inverted[settings]

    unguided = systems["prompt swap"].inversion.model_copy(update={"guidance_scale": 1.0})
    guidance = full.inversion.guidance_scale
    reconstruction = {
        "VAE round trip": _median_of([i.vae_psnr for i in inversions_for(full.inversion)]),
        "ddim, guidance 1": _median_of([i.recon_psnr for i in inversions_for(unguided)]),
        f"ddim, guidance {guidance:g}": _median_of(
            [i.recon_psnr for i in inversions_for(systems["prompt swap"].inversion)]
        ),
        f"prompt-tuning, guidance {guidance:g}": _median_of([i.recon_psnr for i in inversions_for(full.inversion)]),
    }
    scores = {
        name: summarise(run_system(editor, cases, inversions_for(system.inversion), system, batch))
        for name, system in systems.items()
    }
    return QualityReport(n_scenes, editor.fingerprint, reconstruction, scores)


def _median_of(values: Sequence[float]) -> float:
    # One value per case, so each scene counts once per kind of edit and the median is that over scenes.
    return median(values)


def as_markdown(report: QualityReport) -> str:
    """The report as Markdown tables, ready for the README."""
    lines = ["| reconstruction | median PSNR, dB |", "|---|---|"]
    lines += [f"| {name} | {value:.2f} |" for name, value in report.reconstruction.items()]
    lines += [
        "",
        "| system | edit | success | inside, dB | its mean | outside, dB | its mean |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, kinds in report.systems.items():
        for kind in (*KINDS, "all"):
            row = kinds[kind]
            columns = ("inside_psnr", "inside_mean", "outside_psnr", "outside_mean")
            figures = " | ".join(f"{row[column]:.2f}" for column in columns)
            lines.append(f"| {name} | {kind} | {row['success']:.0%} | {figures} |")
    return "\n".join(lines)
