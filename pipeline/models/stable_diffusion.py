"""The Stable Diffusion family: SD 1.x, SD 2.x (also with v-prediction) and the bundled model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pipeline.models.unet import UNetBackbone


class StableDiffusion(UNetBackbone):
    """A frozen `StableDiffusionPipeline`."""

    def _embed(self, prompt: str) -> Tensor:
        window = self._tokenizer.model_max_length
        ids = self._tokenizer(
            [prompt], padding="max_length", max_length=window, truncation=True, return_tensors="pt"
        ).input_ids
        return self._pipeline.text_encoder(ids.to(self.device))[0][0].float()  # type: ignore[no-any-return]

    def _output(self, network: Any, z: Tensor, timestep: Tensor, embedding: Tensor) -> Tensor:
        return network(z, timestep, encoder_hidden_states=embedding).sample  # type: ignore[no-any-return]

    def as_pipeline(self, kind: Any, scheduler: Callable[[Any], Any], **parts: Any) -> Any:
        """These very networks as another of diffusers' pipelines, of class `kind`; `scheduler` makes its own."""
        pipeline = kind(
            vae=self._pipeline.vae,
            unet=self._pipeline.unet,
            text_encoder=self._pipeline.text_encoder,
            tokenizer=self._pipeline.tokenizer,
            scheduler=scheduler(self._pipeline.scheduler.config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            **parts,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline
