"""The deterministic solver, forwards and backwards: DDIM, DDIM inversion and the flow's Euler step in one.

From the network's output follows the pair `(x_0, eps)`; a latent at any other noise level is
`alpha · x_0 + sigma · eps` (Song et al., 2021, eq. 12 with sigma = 0).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.diffusion.schedule import NoiseSchedule

# (latents (n, c, h, w), step 1..N) → the network's output, of the same shape.
Predict = Callable[[Tensor, int], Tensor]
# (latents that just arrived, their step 0..N-1) → latents to go on with.
AfterStep = Callable[[Tensor, int], Tensor]


def step_down(z: Tensor, output: Tensor, schedule: NoiseSchedule, step: int, eta: float | Tensor = 0.0) -> Tensor:
    """One step towards the image: latents at `step` → latents at `step - 1`.

    With `eta` above 0, one for all rows or (n, 1, 1, 1), it is the mean of a step that draws
    `schedule.fresh_noise(step, eta)` anew.
    """
    x_0, eps = schedule.pair(z, output, step)
    sigma = schedule.sigma[step - 1]
    if isinstance(eta, Tensor) or eta:
        sigma = (sigma.square() - schedule.fresh_noise(step, eta).square()).clamp(min=0).sqrt()
    return schedule.alpha[step - 1] * x_0 + sigma * eps


def step_up(z: Tensor, eps: Tensor, schedule: NoiseSchedule, step: int) -> Tensor:
    """One step towards the noise: latents at `step - 1` → latents at `step`, along a given `eps`.

    The exact inverse of `step_down`, if `eps` is what the network predicts at the result.
    """
    x_0 = (z - schedule.sigma[step - 1] * eps) / schedule.alpha[step - 1]
    return schedule.alpha[step] * x_0 + schedule.sigma[step] * eps


def step_undone(z: Tensor, output: Tensor, schedule: NoiseSchedule, step: int) -> Tensor:
    """The latents at `step` from which `step_down` with this output of the network arrives at `z`.

    A step down is linear in latents and output; for eps-predictions this is `step_up`. Iterated over outputs, it
    converges for v and flow, too, where eps holds part of the latents sought: of a flow's pure noise, all.
    """
    one = torch.ones_like(schedule.sigma[step])
    by_output = step_down(torch.zeros_like(z), output, schedule, step)
    return (z - by_output) / step_down(one, torch.zeros_like(one), schedule, step)


def invert(predict: Predict, z_0: Tensor, schedule: NoiseSchedule, refine_iterations: int = 0) -> Tensor:
    """Image latents → their trajectory (N + 1, n, c, h, w) in float32; index 0 is clean, N is noise.

    A step up needs the prediction at its own result. Plain DDIM inversion takes it at its start;
    `refine_iterations` repeats it at the result so far, a fixed-point iteration whose solution inverts
    `step_down` exactly (AIDI, Pan et al., 2023; ReNoise, Garibi et al., 2024).
    """
    trajectory = [z_0.float()]
    for step in range(1, schedule.num_inference_steps + 1):
        z = trajectory[-1]
        _, eps = schedule.pair(z, predict(z, step), step - 1)
        z_next = step_up(z, eps, schedule, step)
        for _ in range(refine_iterations):
            z_next = step_undone(z, predict(z_next, step), schedule, step)
        trajectory.append(z_next)
    return torch.stack(trajectory)


def denoise(
    predict: Predict,
    z: Tensor,
    schedule: NoiseSchedule,
    after_step: AfterStep | None = None,
    *,
    start: int | None = None,
    eta: float | Tensor = 0.0,
) -> Tensor:
    """Latents (n, c, h, w) at step `start`, or at pure noise → image latents, in float32; `eta` as in `step_down`."""
    z = z.float()
    for step in range(schedule.num_inference_steps if start is None else start, 0, -1):
        z = step_down(z, predict(z, step), schedule, step, eta)
        if after_step is not None:
            z = after_step(z, step - 1)
    return z
