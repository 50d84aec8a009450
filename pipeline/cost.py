"""What results cost, in network evaluations of one image: counted from the settings, before anything runs."""

from __future__ import annotations

import math

from pipeline.settings import FITTED, JOINT_ITERATIONS, MASK_LEVELS, EditSettings, InversionSettings


def inversion_cost(settings: InversionSettings) -> int:
    """Network evaluations of one inversion, at most; a gradient step, where it is expected, counts as three."""
    # Edit-friendly latents are noised, without the network.
    up, down = 0 if settings.method == "edit-friendly" else 1 + settings.refine_iterations, _down(settings)
    guided = settings.num_inference_steps + _guided_steps(settings)
    again = (1 + max(JOINT_ITERATIONS, settings.refine_iterations)) * guided + down
    return up * settings.num_inference_steps + down + settings.refine_rounds * again


def edit_cost(inversion: InversionSettings, edit: EditSettings, held: float, *, guided: bool) -> int:
    """Network evaluations of one edit that holds on to its source for the share `held` of the steps.

    `guided` says whether its guidance scale is other than 1.
    """
    steps = inversion.num_inference_steps
    guided_steps = sum(map(inversion.guides, range(1, steps + 1))) if guided else 0
    held_steps = math.ceil(held * steps)
    mask = 0 if edit.mask == "none" else 2 * len(MASK_LEVELS)
    # While it is held, an edit's source runs beside it; both shares count from the noise down.
    return steps + guided_steps + held_steps + min(held_steps, guided_steps) + mask


def _down(settings: InversionSettings) -> int:
    """Network evaluations of finding what brings a method back from the noise."""
    steps, guided_steps = settings.num_inference_steps, _guided_steps(settings)
    if settings.method == "negative-prompt":
        return steps
    if settings.method not in FITTED:
        return steps + guided_steps
    gradients = 3 * settings.max_iterations * steps
    # An embedding per step lands where the next step begins; one for several is followed down once it is found.
    again = 0 if settings.embeddings == "per-step" else guided_steps
    if settings.artifact == "compact":
        again += steps + guided_steps  # where the factors lead
    return steps + guided_steps + gradients + again


def _guided_steps(settings: InversionSettings) -> int:
    return sum(settings.scale_at(step) != 1 for step in range(1, settings.num_inference_steps + 1))
