"""The measurement: every system on the same weights and photographs, in one run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from pipeline.demo.scene import caption_words
from pipeline.diffusion.pixels import as_pixels, as_tensor
from pipeline.errors import JobError
from pipeline.models.assembly import load_stable_diffusion, placement
from pipeline.models.measuring import counted_passes, weight_gradients
from pipeline.models.random_weights import RANDOM_MODELS, random_pipeline
from pipeline.models.stable_diffusion import StableDiffusion
from pipeline.pixels import Pixels
from pipeline.quality.speed.machine import describe, matmul_rate, peak_memory
from pipeline.quality.speed.photographs import EDITS, Photograph, photographs
from pipeline.quality.speed.report import Figures, SpeedReport
from pipeline.quality.speed.systems import (
    ALONE,
    IN_BATCHES,
    Ours,
    PeerEditor,
    System,
    mean_psnr,
    systems,
)
from pipeline.quality.speed.work import row_cost

_WARM_UP_STEPS: Final = 4  # fewer leave LEDITS++ nothing to do


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured.

    Attributes:
        images: photographs of the systems that batch.
        alone_images: those that the others run on, and that all reconstructions are measured on: the first.
        batch: rows that go through the network together, images as well as edits.
        steps: of every system; None leaves each its own.
    """

    images: int = 32
    alone_images: int = 4
    batch: int = 16
    steps: int | None = None


def bench_model(name: str | None) -> StableDiffusion:
    """Load what `--model` names: besides what other commands take, one of `RANDOM_MODELS`, made on the spot."""
    if name is None or name not in RANDOM_MODELS:
        return load_stable_diffusion(name)
    device, dtype = placement()
    pipeline = random_pipeline(RANDOM_MODELS[name], caption_words(), device)
    return StableDiffusion(pipeline, name, name, device, dtype)


def measure_speed(
    model: StableDiffusion,
    extent: Extent,
    names: Collection[str] = (),
    *,
    fixed: bool = False,
    compiled: bool = False,
    say: Callable[[str], None] = print,
    save: Callable[[SpeedReport], None] = lambda _: None,
) -> SpeedReport:
    """Run every system, or those of `names`; with `fixed`, fits take all of their iterations.

    `compiled` calls the network compiled in ours, not in what others wrote; its attention is the same for all.

    `say` is told in one line what was measured, and `save` is given what there is so far.

    Raises:
        JobError: an unknown system.
        RowError: latents of ours that are not finite.
    """
    known = systems(extent.batch, fixed=fixed)
    if unknown := sorted(set(names) - known.keys()):
        raise JobError(f"systems: expected some of {', '.join(known)}; got {', '.join(unknown)}")
    photos = photographs(extent.images, model.side)
    compared = photos[: extent.alone_images]
    rate = matmul_rate(model.device, model.dtype)
    if compiled:
        model.compile()
    network = model.compiled
    measured, outputs, skipped = dict[str, Figures](), dict[str, list[Pixels]](), dict[str, str]()
    ceiling = as_pixels(model.decode_latents(model.encode_images(as_tensor([photo.pixels for photo in compared]))))

    def report() -> SpeedReport:
        return SpeedReport(
            machine=describe(model.device, model.dtype),
            model=model.fingerprint,
            matmul_flops=rate,
            vae_psnr=mean_psnr(ceiling, compared),
            recon_images=len(compared),
            edits_per_image=len(EDITS),
            fixed_iterations=fixed,
            compiled=compiled,
            systems=dict(measured),
            skipped=skipped,
            max_pixel_difference=_largest_difference(outputs),
        )

    for name in names or known:
        system = known[name] if extent.steps is None else known[name].with_steps(extent.steps)
        model.compiled = network if isinstance(system, Ours) else None
        try:
            measured[name], outputs[name] = _measure(model, system, photos, len(compared))
            rate = max(rate, matmul_rate(model.device, model.dtype))  # other work on the machine comes and goes
        except Exception as error:  # other people's code, which need not run on every model
            if not isinstance(system, PeerEditor):
                raise
            skipped[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
            say(f"{name}: skipped ({skipped[name]})")
        else:
            say(f"{name}: {measured[name]}")
        save(report())
    return report()


def _measure(
    model: StableDiffusion, system: System, photos: Sequence[Photograph], n_compared: int
) -> tuple[Figures, list[Pixels]]:
    """Run one system → its figures, and its edits."""
    photos = photos[:n_compared] if system.alone else photos
    with contextlib.nullcontext() if system.frozen else weight_gradients(model):
        cost = row_cost(model, model.side)
        system.with_steps(_WARM_UP_STEPS).run(model, photos[:1] if system.alone else photos)  # first calls pay set-up
        with peak_memory(model.device) as peak, counted_passes(model) as passes:
            outcome = system.run(model, photos)
    seconds = outcome.inversion_seconds + outcome.edit_seconds
    figures = Figures(
        invert_s=outcome.inversion_seconds / len(photos),
        edit_s=outcome.edit_seconds / len(outcome.outputs),
        recon_psnr=outcome.recon_psnr(n_compared),
        peak_mb=peak.mb,
        flops_per_s=cost.of(passes) / seconds,
        images=len(photos),
        edits=len(outcome.outputs),
        iterations=outcome.iterations,
        ours=isinstance(system, Ours),
        settings=system.settings,
    )
    return figures, outcome.outputs


def _largest_difference(outputs: Mapping[str, Sequence[Pixels]]) -> int | None:
    """Between outputs of the same system in a batch and alone."""
    if not {ALONE, IN_BATCHES} <= outputs.keys():
        return None
    pairs = zip(outputs[ALONE], outputs[IN_BATCHES], strict=False)
    return max(int(np.abs(alone.astype(int) - together).max()) for alone, together in pairs)
