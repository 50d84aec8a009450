"""What results cost, in network evaluations of one image: counted from the settings, before anything runs."""

from __future__ import annotations

import math

from pipeline.settings import FITTED, JOINT_ITERATIONS, MASK_LEVELS, EditSettings, InversionSettings


def inversion_cost(settings: InversionSettings) -> int:
    """Network evaluations of one inversion, at most; a gradient step, where it is expected, counts as three."""
    down = _finding(settings)
    guided = settings.num_inference_steps + _guided_steps(settings)
    again = (1 + max(JOINT_ITERATIONS, settings.refine_iterations)) * guided + down
    return _up(settings) + down + settings.refine_rounds * again


def restoring_cost(settings: InversionSettings) -> int:
    """Network evaluations of what a stored artifact left out, which its edits need: the way up and the way down."""
    if settings.artifact == "full":
        return 0
    return (_up(settings) if settings.retraces else 0) + _down(settings)


def edit_cost(inversion: InversionSettings, edit: EditSettings, held: float, *, guided: bool) -> int:
    """Network evaluations of one edit that holds on to its source for the share `held` of the steps.

    Of an edit that is alone: those of one image that go together share its source.
    `guided` says whether its guidance scale is other than 1.
    """
    steps = inversion.num_inference_steps
    guided_steps = sum(map(inversion.guides, range(1, steps + 1))) if guided else 0
    held_steps = math.ceil(held * steps)
    mask = 0 if edit.mask == "none" else 2 * len(MASK_LEVELS)
    # While it is held, an edit's source runs beside it; both shares count from the noise down.
    return steps + guided_steps + held_steps + min(held_steps, guided_steps) + mask


def _up(settings: InversionSettings) -> int:
    """Network evaluations from an image to its noise."""
    if settings.method == "edit-friendly":
        return 0  # its latents are noised, without the network
    return (1 + settings.refine_iterations) * settings.num_inference_steps


def _down(settings: InversionSettings) -> int:
    """Network evaluations from the noise back to the image, all that this takes being known."""
    guided_steps = 0 if settings.method == "negative-prompt" else _guided_steps(settings)
    return settings.num_inference_steps + guided_steps


def _finding(settings: InversionSettings) -> int:
    """Network evaluations of finding what brings a method back from the noise."""
    if settings.method not in FITTED:
        return _down(settings)
    gradients = 3 * settings.max_iterations * settings.num_inference_steps
    # An embedding per step lands where the next step begins; one for several is followed down once it is found.
    again = 0 if settings.embeddings == "per-step" else _guided_steps(settings)
    if settings.artifact == "compact":
        again += _down(settings)  # where the factors lead
    return _down(settings) + gradients + again


def _guided_steps(settings: InversionSettings) -> int:
    return sum(settings.scale_at(step) != 1 for step in range(1, settings.num_inference_steps + 1))
