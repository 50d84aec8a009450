"""What the families share whose denoiser is a U-Net: their schedule, and control of attention and structure."""

from __future__ import annotations

import abc
import contextlib
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor

from pipeline.diffusion.control import NO_CONTROL, Control
from pipeline.diffusion.schedule import NoiseSchedule, ddim_schedule
from pipeline.errors import JobError
from pipeline.models.attention import ControlledAttention, Watched, processed_by
from pipeline.models.backbone import Backbone
from pipeline.models.hooks import RowsTaken

_PREDICTIONS: Final = ("epsilon", "v_prediction", "sample")


class UNetBackbone(Backbone):
    """A frozen diffusion model with a `UNet2DConditionModel`."""

    def __init__(self, pipeline: Any, name: str, fingerprint: str, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(pipeline, name, fingerprint, device, dtype)
        pipeline.unet.to(memory_format=torch.channels_last)
        pipeline.unet.set_attn_processor(ControlledAttention(NO_CONTROL))
        # After the pipeline's construction, which corrects outdated scheduler settings.
        scheduler = pipeline.scheduler
        self._prediction = scheduler.config.get("prediction_type", "epsilon")
        if self._prediction not in _PREDICTIONS or not hasattr(scheduler, "alphas_cumprod"):
            raise JobError(
                f"model {name}: expected a diffusion's scheduler that predicts {', '.join(_PREDICTIONS)}; "
                f"got {type(scheduler).__name__}, {self._prediction}"
            )

    @cached_property
    def _structure(self) -> RowsTaken:
        # The second decoder block's first residual block: of all, the one that helped (infra/decisions/0007).
        blocks = self._network.up_blocks
        return RowsTaken(blocks[min(1, len(blocks) - 1)].resnets[0])

    @abc.abstractmethod
    def _output(self, network: Any, z: Tensor, timestep: Tensor, embedding: Tensor) -> Tensor:
        """The output of the network, compiled or not."""

    def schedule(self, num_inference_steps: int) -> NoiseSchedule:
        scheduler = self._pipeline.scheduler
        try:
            schedule = ddim_schedule(
                scheduler.alphas_cumprod,
                num_inference_steps,
                spacing=scheduler.config.get("timestep_spacing", "leading"),
                steps_offset=scheduler.config.get("steps_offset", 0),
                set_alpha_to_one=False,
                prediction=self._prediction,
            )
        except ValueError as error:
            raise JobError(str(error)) from error
        return schedule.to(self.device)

    def predict(self, z: Tensor, timestep: Tensor, embedding: Tensor, control: Control = NO_CONTROL) -> Tensor:
        return self._predict(z, timestep, embedding, control, None)

    def predict_watching(
        self, z: Tensor, timestep: Tensor, embedding: Tensor, words: Tensor, control: Control = NO_CONTROL
    ) -> tuple[Tensor, Tensor]:
        watched = Watched(words, (z.shape[-2], z.shape[-1]))
        output = self._predict(z, timestep, embedding, control, watched)
        return output, watched.mean()

    def _predict(
        self, z: Tensor, timestep: Tensor, embedding: Tensor, control: Control, watched: Watched | None
    ) -> Tensor:
        attention = any(x is not None for x in (control.self_attention_of, control.cross_attention, watched))
        network = self._network if attention or self.compiled is None else self.compiled
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._structure.from_rows(control.structure_of))
            if attention:
                stack.enter_context(processed_by(self._network, ControlledAttention(control, watched)))
            return self._output(network, z.to(self.dtype), timestep, embedding.to(self.dtype)).float()
