"""Edit-friendly DDPM inversion (Huberman-Spiegelglas et al., CVPR 2024, arXiv 2304.06140).

Noises the image to every step with fresh noise each time, unlike a diffusion's, and stores what a DDPM step (eta = 1)
from each of these latents has to add to reach the next: noise maps that, the paper finds, carry the image's structure
more firmly than inverted noise. Sampling with them leads to the image; under another prompt, to the edit. Needs no fit.
Published with 100 steps of which an edit leaves out the first 36 (`skip: 0.36`). Stores the latents and the noise
maps, which are scaled to what is added.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from pipeline.methods.base import Inverted, Method, Task, prompts_alone
from pipeline.methods.correction import corrected, residual_at

_ETA: Final = 1.0
_SEED: Final = 0  # the same for every image, so that an image's noise does not depend on its batch mates


def _find(task: Task, noised: Tensor) -> Inverted:
    return corrected(task, noised, _ETA)


def _independently_noised(task: Task) -> Tensor:
    """Latents (N + 1, n, c, h, w) of each step, every one with fresh noise (eq. 6)."""
    z_0, schedule = task.z_0.float(), task.schedule
    generator = torch.Generator().manual_seed(_SEED)
    eps = torch.randn(schedule.num_inference_steps, *z_0.shape[1:], generator=generator).to(z_0.device)
    noised = [
        schedule.alpha[step] * z_0 + schedule.sigma[step] * eps[step - 1]
        for step in range(1, schedule.num_inference_steps + 1)
    ]
    return torch.stack([z_0, *noised])


EDIT_FRIENDLY = Method(_find, prompts_alone, _independently_noised, eta=_ETA, residual=residual_at)
