"""Stable Diffusion XL (Podell et al., 2023, arXiv 2307.01952): two text encoders, a pooled vector, picture sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.models.pooled import packed, unpacked
from pipeline.models.unet import UNetBackbone


class StableDiffusionXL(UNetBackbone):
    """A frozen `StableDiffusionXLPipeline`.

    An embedding is both encoders' penultimate layers side by side, then the second one's pooled vector.
    """

    def _embed(self, prompt: str) -> Tensor:
        tokens, _, pooled, _ = self._pipeline.encode_prompt(
            prompt, device=self.device, do_classifier_free_guidance=False
        )
        embedding = packed(tokens[0].float(), pooled[0].float())
        # What the model was trained with where there was no prompt.
        return torch.zeros_like(embedding) if not prompt and self._zeros_for_empty else embedding

    @property
    def _zeros_for_empty(self) -> bool:
        return bool(self._pipeline.config.get("force_zeros_for_empty_prompt", True))

    def _output(self, network: Any, z: Tensor, timestep: Tensor, embedding: Tensor) -> Tensor:
        tokens, pooled = unpacked(embedding, int(self._pipeline.text_encoder_2.config.projection_dim))
        height, width = (self._autoencoder.stride * cells for cells in z.shape[-2:])
        # Original size, offset of the crop, target size: a whole picture of this very size.
        time_ids = torch.tensor([height, width, 0, 0, height, width], device=z.device, dtype=torch.float32)
        return network(  # type: ignore[no-any-return]
            z,
            timestep,
            encoder_hidden_states=tokens,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids.expand(len(z), -1)},
        ).sample
