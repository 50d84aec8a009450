"""Noise schedules: how much signal and how much noise a latent holds at each step.

Everywhere `x_t = alpha_t · x_0 + sigma_t · eps`. What the network was trained to predict is part of the
schedule, and nothing above this file asks which it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]
Spacing = Literal["leading", "trailing", "linspace"]


@dataclass(frozen=True, slots=True)
class NoiseSchedule:
    """The noise levels of one run, step 0 (clean) to step N (noise).

    Attributes:
        timesteps: (N,) what the network is told at steps 1..N; `timesteps[i - 1]` belongs to step i.
        alpha: (N + 1,) share of signal at steps 0..N, float32.
        sigma: (N + 1,) share of noise at steps 0..N, float32.
        prediction: what the network's output means.
    """

    timesteps: Tensor
    alpha: Tensor
    sigma: Tensor
    prediction: Prediction

    @property
    def num_inference_steps(self) -> int:
        return len(self.timesteps)

    def to(self, device: torch.device) -> NoiseSchedule:
        return NoiseSchedule(self.timesteps.to(device), self.alpha.to(device), self.sigma.to(device), self.prediction)

    def pair(self, z: Tensor, output: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Recover `(x_0, eps)` from a latent at `step` and the network's output for it, in float32."""
        z, output = z.float(), output.float()
        alpha, sigma = self.alpha[step], self.sigma[step]
        if self.prediction == "epsilon":
            return (z - sigma * output) / alpha, output
        if self.prediction == "v_prediction":
            return alpha * z - sigma * output, alpha * output + sigma * z
        if self.prediction == "flow":
            return z - sigma * output, z + alpha * output
        return output, (z - alpha * output) / sigma

    def fresh_noise(self, step: int, eta: float | Tensor) -> Tensor:
        """How much of the noise at `step - 1` a step down from `step` draws anew (Song et al., 2021, eq. 16).

        0 is the deterministic DDIM; 1 is as random as DDPM.
        """
        alpha, sigma = self.alpha, self.sigma
        # For a step to no noise at all this is 0, like that noise.
        kept = (alpha[step] * sigma[step - 1] / (alpha[step - 1] * sigma[step])).square()
        return eta * sigma[step - 1] * (1 - kept).clamp(min=0).sqrt()


def ddim_schedule(
    alphas_cumprod: Tensor,
    num_inference_steps: int,
    *,
    spacing: Spacing = "leading",
    steps_offset: int = 1,
    set_alpha_to_one: bool = False,
    prediction: Prediction = "epsilon",
) -> NoiseSchedule:
    """The steps of a variance-preserving model (Song et al., 2021, DDIM).

    Each step ends exactly where the next begins. diffusers' `DDIMScheduler` does so too for `leading`
    spacing, and for `trailing` where the number of steps divides the number of training timesteps.

    Raises:
        ValueError: more steps than the model has training timesteps.
    """
    n_train = len(alphas_cumprod)
    timesteps = _timesteps(n_train, num_inference_steps, spacing, steps_offset)
    clean = torch.ones(1) if set_alpha_to_one else alphas_cumprod[:1].float()
    alpha_bar = torch.cat((clean, alphas_cumprod[timesteps].float()))
    return NoiseSchedule(timesteps, alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), prediction)


def _timesteps(n_train: int, n_steps: int, spacing: Spacing, offset: int) -> Tensor:
    if spacing == "leading":
        timesteps = torch.arange(n_steps) * (n_train // n_steps if n_steps <= n_train else 1) + offset
    elif spacing == "trailing":
        timesteps = (torch.arange(n_train, 0, -n_train / n_steps, dtype=torch.float64).round().long() - 1).flip(0)
        timesteps = timesteps[-n_steps:]
    else:
        timesteps = torch.linspace(0, n_train - 1, n_steps, dtype=torch.float64).round().long()
    if n_steps > n_train or int(timesteps[-1]) >= n_train:
        most = n_train - offset if spacing == "leading" else n_train
        raise ValueError(f"num_inference_steps: expected at most {most} for this model; got {n_steps}")
    return timesteps


def flow_schedule(num_inference_steps: int, *, n_train: int = 1000, shift: float = 1.0) -> NoiseSchedule:
    """The steps of a rectified flow (Liu et al., 2023), `x_t = (1 - t) · x_0 + t · eps`, as SD3 and FLUX use it.

    `shift` moves steps towards the noise (Esser et al., 2024, eq. 23).
    """
    smallest = shift * (1 / n_train) / (1 + (shift - 1) / n_train)
    largest = 1.0
    t = torch.linspace(largest, smallest, num_inference_steps, dtype=torch.float64).flip(0)
    t = shift * t / (1 + (shift - 1) * t)
    sigma = torch.cat((torch.zeros(1), t.float()))
    return NoiseSchedule((t * n_train).float(), 1 - sigma, sigma, "flow")
