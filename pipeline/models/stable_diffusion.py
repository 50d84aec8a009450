"""The Stable Diffusion family (SD 1.x, SD 2.x, the bundled model): images, prompts and predictions as tensors."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import StableDiffusionPipeline
from torch import Tensor

from pipeline.diffusion.control import NO_CONTROL, Control, Wording
from pipeline.diffusion.schedule import NoiseSchedule, ddim_schedule
from pipeline.errors import JobError
from pipeline.models.attention import ControlledAttention, Watched, processed_by
from pipeline.models.checking import check_sizes
from pipeline.models.loading import model_fingerprint, resolve_model
from pipeline.models.prompts import wording

# Enough for a batch's prompts and every prompt row; at SD 1.5's size 240 MB. Source prompts may differ per image.
_PROMPTS_KEPT = 1024

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class StableDiffusion:
    """A frozen Stable Diffusion model behind the few operations that methods need.

    Latents, embeddings and outputs are float32 at this boundary; the network itself runs in `dtype`.
    """

    def __init__(self, folder: Path, name: str, fingerprint: str, device: torch.device, dtype: torch.dtype) -> None:
        pipeline = _load(folder, name)
        self.name, self.fingerprint, self.device, self.dtype = name, fingerprint, device, dtype
        self._vae: Any = pipeline.vae.to(device).eval().requires_grad_(False)
        self._unet: Any = pipeline.unet.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
        self._text_encoder: Any = pipeline.text_encoder.to(device).eval().requires_grad_(False)
        self._tokenizer: Any = pipeline.tokenizer
        # After construction: the pipeline's constructor corrects outdated scheduler settings.
        self._scheduler_config: Any = pipeline.scheduler.config
        self._alphas_cumprod: Tensor = pipeline.scheduler.alphas_cumprod
        self._encoded = lru_cache(_PROMPTS_KEPT)(self._encode_prompt)

    @classmethod
    def from_pretrained(cls, model: str | None, device: str | None, dtype: str | None) -> StableDiffusion:
        """Load a diffusers folder; see `resolve_model` for what `model` may be.

        Raises:
            JobError: it is not there, or not a Stable Diffusion model.
        """
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        default = "float32" if chosen.type == "cpu" else "bfloat16"
        folder = resolve_model(model)
        return cls(folder, model or "bundled", model_fingerprint(model), chosen, _DTYPES[dtype or default])

    @property
    def stride(self) -> int:
        """Working sizes are multiples of this many pixels."""
        levels = len(self._unet.config.block_out_channels)
        return self._latent_stride << (levels - 1)

    @property
    def side(self) -> int:
        """Side of the square, in pixels, that the model was trained at."""
        return int(self._unet.config.sample_size) * self._latent_stride

    @property
    def _latent_stride(self) -> int:
        levels = len(self._vae.config.block_out_channels)
        return 1 << (levels - 1)

    def schedule(self, num_inference_steps: int) -> NoiseSchedule:
        """The checkpoint's own noise schedule, in `num_inference_steps` steps.

        Raises:
            JobError: the model has fewer training timesteps than that.
        """
        config = self._scheduler_config
        try:
            schedule = ddim_schedule(
                self._alphas_cumprod,
                num_inference_steps,
                spacing=config.get("timestep_spacing", "leading"),
                steps_offset=config.get("steps_offset", 0),
                set_alpha_to_one=False,
                prediction=config.get("prediction_type", "epsilon"),
            )
        except ValueError as error:
            raise JobError(str(error)) from error
        return schedule.to(self.device)

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Pixels (n, 3, h, w) in [0, 1] → scaled latents, from the distribution's mode and not a sample of it."""
        with self._precision(self._vae_dtype):
            z: Tensor = self._vae.encode(pixels.to(self.device) * 2 - 1).latent_dist.mode().float()
        shift = getattr(self._vae.config, "shift_factor", None) or 0.0
        return (z - shift) * float(self._vae.config.scaling_factor)

    @torch.no_grad()
    def decode_latents(self, z: Tensor) -> Tensor:
        """Scaled latents → pixels (n, 3, h, w) in [0, 1]."""
        shift = getattr(self._vae.config, "shift_factor", None) or 0.0
        with self._precision(self._vae_dtype):
            pixels: Tensor = self._vae.decode(z.to(self.device) / float(self._vae.config.scaling_factor) + shift).sample
        return (pixels.float() / 2 + 0.5).clamp(0, 1)

    def encode_prompts(self, prompts: list[str]) -> Tensor:
        """Prompts → embeddings (n, tokens, width); texts used lately are not encoded again."""
        return torch.stack([self._encoded(prompt) for prompt in prompts])

    def holds(self, prompt: str) -> bool:
        """Whether the whole prompt fits into the text window; of a longer one the rest is cut off, as in diffusers."""
        return len(self._tokenizer(prompt, truncation=False).input_ids) <= int(self._tokenizer.model_max_length)

    def wording(
        self, sources: Sequence[str], targets: Sequence[str], weights: Sequence[Mapping[str, float]]
    ) -> Wording:
        """How the tokens of n target prompts correspond to those of their source prompts, and their weights."""
        return wording(self._tokenizer, sources, targets, weights).to(self.device)

    @torch.no_grad()
    def _encode_prompt(self, prompt: str) -> Tensor:
        window = self._tokenizer.model_max_length
        ids = self._tokenizer(
            [prompt], padding="max_length", max_length=window, truncation=True, return_tensors="pt"
        ).input_ids
        with self._precision(self.dtype):
            return self._text_encoder(ids.to(self.device))[0][0].float()  # type: ignore[no-any-return]

    def predict(self, z: Tensor, timestep: Tensor, embedding: Tensor, control: Control = NO_CONTROL) -> Tensor:
        """The network's output for latents (n, c, h, w) at timesteps (n,) under embeddings (n, tokens, width)."""
        return self._predict(z, timestep, embedding, control, None)

    def predict_watching(
        self, z: Tensor, timestep: Tensor, embedding: Tensor, words: Tensor, control: Control = NO_CONTROL
    ) -> tuple[Tensor, Tensor]:
        """The same, and how much each cell attends to each word: (n, words, h, w), averaged over heads and levels.

        `words` (n, words, tokens) is 1 at the tokens of each word.
        """
        watched = Watched(words, (z.shape[-2], z.shape[-1]))
        output = self._predict(z, timestep, embedding, control, watched)
        return output, watched.mean()

    def _predict(
        self, z: Tensor, timestep: Tensor, embedding: Tensor, control: Control, watched: Watched | None
    ) -> Tensor:
        attention = any(x is not None for x in (control.self_attention_of, control.cross_attention, watched))
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._precision(self.dtype))
            stack.enter_context(self._structure(control.structure_of))
            if attention:
                stack.enter_context(processed_by(self._unet, ControlledAttention(control, watched)))
            output = self._unet(z, timestep, encoder_hidden_states=embedding).sample
        return output.float()  # type: ignore[no-any-return]

    def as_pipeline(self, kind: Any, scheduler: Callable[[Any], Any], **parts: Any) -> Any:
        """These very networks as another of diffusers' pipelines, of class `kind`; `scheduler` makes its own."""
        pipeline = kind(
            vae=self._vae,
            unet=self._unet,
            text_encoder=self._text_encoder,
            tokenizer=self._tokenizer,
            scheduler=scheduler(self._scheduler_config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            **parts,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    @contextlib.contextmanager
    def _structure(self, structure_of: Tensor | None) -> Iterator[None]:
        if structure_of is None:
            yield
            return
        # The second decoder block's first residual block: of all, the one that helped (infra/decisions/0007).
        block = self._unet.up_blocks[min(1, len(self._unet.up_blocks) - 1)].resnets[0]
        hook = block.register_forward_hook(lambda _module, _inputs, features: features[structure_of])
        try:
            yield
        finally:
            hook.remove()

    @property
    def _vae_dtype(self) -> torch.dtype:
        # Some autoencoders overflow in half precision and say so.
        return torch.float32 if self._vae.config.get("force_upcast", False) else self.dtype

    def _precision(self, dtype: torch.dtype) -> contextlib.AbstractContextManager[Any]:
        if dtype is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype)

    def working_size(self, width: int, height: int, side: int) -> tuple[int, int]:
        """The (width, height) of area about `side`² whose aspect ratio is nearest, in multiples of the stride."""
        stride, cells = self.stride, max(1, side // self.stride)
        aspect = math.log(min(4.0, max(0.25, width / height)))
        sizes = [(w, max(1, cells * cells // w)) for w in range(1, 2 * cells + 1)]
        w, h = min(sizes, key=lambda size: (abs(math.log(size[0] / size[1]) - aspect), -size[0] * size[1]))
        return w * stride, h * stride


def _load(folder: Path, name: str) -> StableDiffusionPipeline:
    # A job has its own progress; the libraries' bars, and their advice about optional packages, would break it.
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    check_sizes(folder, name)
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder,
            dtype=torch.float32,  # autocast lowers the products' precision, not the weights'
            safety_checker=None,
            requires_safety_checker=False,
            use_safetensors=True,
            local_files_only=True,
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise JobError(f"model {name}: expected a Stable Diffusion pipeline; got {reason}") from error
    assert isinstance(pipeline, StableDiffusionPipeline)
    return pipeline
