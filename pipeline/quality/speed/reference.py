"""Null-text inversion as its authors published it, one image at a time: what the speed benchmark compares with.

Mokady et al., CVPR 2023, arXiv 2211.09794, algorithm 1, with the constants of `google/prompt-to-prompt`. Nothing of
our own fit is used: neither batches, nor per-row stops, nor another start or rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.diffusion.guidance import guided
from pipeline.diffusion.solver import denoise, invert, step_down
from pipeline.models.stable_diffusion import StableDiffusion

PAPER_GUIDANCE: Final = 7.5
INNER_ITERATIONS: Final = 10
_RATE, _STOP, _STOP_PER_STEP = 1e-2, 1e-5, 2e-5


@dataclass(frozen=True, slots=True)
class NullText:
    """One image, inverted.

    Attributes:
        noise: (1, c, h, w) where the inversion ends.
        embeddings: N unconditional embeddings (1, tokens, width), in the order of sampling: the noisiest step's first.
        z_0: (1, c, h, w) where guided sampling from `noise` with them lands.
        iterations: gradient steps taken.
    """

    noise: Tensor
    embeddings: list[Tensor]
    z_0: Tensor
    iterations: int


def null_text(
    model: StableDiffusion, pixels: Tensor, prompt: str, n_steps: int, guidance_scale: float, *, stops: bool = True
) -> NullText:
    """Invert one image (1, 3, h, w) in [0, 1]; without `stops` every step takes all of its iterations.

    At most 100 steps: past them the published learning rate is negative.
    """
    assert n_steps <= 100
    schedule = model.schedule(n_steps)
    conditional, unconditional = model.encode_prompts([prompt]), model.encode_prompts([""])

    def predict(z: Tensor, step: int, embedding: Tensor) -> Tensor:
        return model.predict(z, schedule.timesteps[step - 1 : step], embedding)

    with torch.no_grad():
        trajectory = invert(lambda z, step: predict(z, step, conditional), model.encode_images(pixels), schedule)
    z, embeddings, iterations = trajectory[n_steps], list[Tensor](), 0
    for i, step in enumerate(range(n_steps, 0, -1)):
        unconditional = unconditional.detach().clone().requires_grad_()
        optimiser = torch.optim.Adam([unconditional], lr=_RATE * (1 - i / 100))
        with torch.no_grad():
            eps_c = predict(z, step, conditional)
        for _ in range(INNER_ITERATIONS):
            output = guided(predict(z, step, unconditional), eps_c, guidance_scale)
            loss = F.mse_loss(step_down(z, output, schedule, step), trajectory[step - 1])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            iterations += 1
            if stops and loss.item() < _STOP + i * _STOP_PER_STEP:
                break
        embeddings.append(unconditional.detach())
        output = _both(model, z, schedule.timesteps[step - 1], embeddings[-1], conditional, guidance_scale)
        z = step_down(z, output, schedule, step)
    return NullText(trajectory[n_steps], embeddings, z, iterations)


def null_text_edit(model: StableDiffusion, inverted: NullText, prompt: str, guidance_scale: float) -> Tensor:
    """Sample another prompt from the inverted noise, with the learned embeddings → pixels (1, 3, h, w) in [0, 1].

    The authors edit with Prompt-to-Prompt's control of attention on top, which runs the source beside it: twice this.
    """
    schedule = model.schedule(len(inverted.embeddings))
    conditional = model.encode_prompts([prompt])

    def predict(z: Tensor, step: int) -> Tensor:
        unconditional = inverted.embeddings[len(inverted.embeddings) - step]
        return _both(model, z, schedule.timesteps[step - 1], unconditional, conditional, guidance_scale)

    return model.decode_latents(denoise(predict, inverted.noise, schedule))


@torch.no_grad()
def _both(
    model: StableDiffusion,
    z: Tensor,
    timestep: Tensor,
    unconditional: Tensor,
    conditional: Tensor,
    guidance_scale: float,
) -> Tensor:
    """The guided output for latents (1, c, h, w); both branches share a call."""
    outputs = model.predict(z.repeat(2, 1, 1, 1), timestep.expand(2), torch.cat((unconditional, conditional)))
    return guided(outputs[:1], outputs[1:], guidance_scale)
