"""Stable Diffusion 3 (Esser et al., 2024, arXiv 2403.03206): a rectified flow, and a transformer over image and text.

Text and picture attend to each other and themselves in one attention, so that there are no maps of words to hold,
weigh or watch, and such controls are refused (`families.lacking`).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor

from pipeline.diffusion.control import NO_CONTROL, Control
from pipeline.diffusion.schedule import NoiseSchedule, flow_schedule
from pipeline.errors import JobError
from pipeline.models.backbone import Backbone
from pipeline.models.hooks import RowsTaken
from pipeline.models.pooled import packed, unpacked

# Settings of diffusers' scheduler that would give other noise levels than `flow_schedule` does.
_OTHER_LEVELS: Final = (
    "use_dynamic_shifting",
    "shift_terminal",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "invert_sigmas",
)


class StableDiffusion3(Backbone):
    """A frozen `StableDiffusion3Pipeline`; T5, the largest text encoder by far, may be absent.

    An embedding is the CLIP encoders' tokens, T5's tokens (zeros without T5), then both CLIPs' pooled vectors.
    """

    def __init__(self, pipeline: Any, name: str, fingerprint: str, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(pipeline, name, fingerprint, device, dtype)
        if unknown := [setting for setting in _OTHER_LEVELS if pipeline.scheduler.config.get(setting)]:
            raise JobError(f"model {name}: expected a scheduler without {', '.join(unknown)}")

    @cached_property
    def _structure(self) -> RowsTaken:
        # What picture tokens gather in the middle block, and not all they hold there, which would be the source's
        # latents in place of the edit's (infra/decisions/0011).
        blocks = self._network.transformer_blocks
        return RowsTaken(blocks[len(blocks) // 2].attn)

    def schedule(self, num_inference_steps: int) -> NoiseSchedule:
        config = self._pipeline.scheduler.config
        schedule = flow_schedule(num_inference_steps, n_train=config.num_train_timesteps, shift=config.shift)
        return schedule.to(self.device)

    def _embed(self, prompt: str) -> Tensor:
        tokens, _, pooled, _ = self._pipeline.encode_prompt(
            prompt, None, None, device=self.device, do_classifier_free_guidance=False
        )
        return packed(tokens[0].float(), pooled[0].float())

    def predict(self, z: Tensor, timestep: Tensor, embedding: Tensor, control: Control = NO_CONTROL) -> Tensor:
        assert control.self_attention_of is None, "refused for this family"
        assert control.cross_attention is None, "refused for this family"
        tokens, pooled = unpacked(embedding, int(self._network.config.pooled_projection_dim))
        network = self._network if self.compiled is None else self.compiled
        with self._structure.from_rows(control.structure_of):
            output: Tensor = network(
                z.to(self.dtype), tokens.to(self.dtype), pooled.to(self.dtype), timestep=timestep
            ).sample
        return output.float()

    def predict_watching(self, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        raise JobError(f"model {self.name}: expected a model with cross-attention; {self.family.title} has none")
