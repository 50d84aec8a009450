"""Autoencoders of all families: pixels to scaled latents and back."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

# Pixels that are decoded together. In single precision Stable Diffusion's decoder takes some 4 kB for each: all rows of
# a call would take more memory than in the denoiser, whose slots would be halved for it (infra/decisions/0022).
_TOGETHER: Final = 1 << 21


class Autoencoder:
    """A frozen `AutoencoderKL`, or an `AutoencoderTiny` in its place."""

    def __init__(self, vae: Any, device: torch.device, dtype: torch.dtype) -> None:
        config = vae.config
        # Some autoencoders overflow in half precision and say so.
        self._dtype = torch.float32 if config.get("force_upcast", False) else dtype
        self._vae, self._device = vae.to(self._dtype), device
        self.stride = 1 << (len(config.block_out_channels) - 1)
        # Of all channels, or of each.
        mean, std = config.get("latents_mean"), config.get("latents_std")
        self._shift = _constant(mean or [config.get("shift_factor") or 0.0], device)
        self._scale = float(config.scaling_factor) / _constant(std or [1.0], device)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (n, 3, h, w) in [0, 1] → scaled latents, from the distribution's mode and not a sample of it."""
        found = self._vae.encode((pixels.to(self._device) * 2 - 1).to(self._dtype))
        # A tiny autoencoder has no distribution.
        z: Tensor = found.latents if "latents" in found else found.latent_dist.mode()
        return (z.float() - self._shift) * self._scale

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Scaled latents → pixels (n, 3, h, w) in [0, 1]."""
        unscaled = (z.to(self._device) / self._scale + self._shift).to(self._dtype)
        rows = max(1, _TOGETHER // (self.stride**2 * z.shape[-2] * z.shape[-1]))
        pixels = torch.cat([self._vae.decode(part).sample for part in torch.split(unscaled, rows)])
        return (pixels.float() / 2 + 0.5).clamp(0, 1)


def _constant(values: list[float], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device).view(1, -1, 1, 1)
