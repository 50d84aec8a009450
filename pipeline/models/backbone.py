"""What every model family is to the engine: images, prompts and predictions as tensors."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, Final

import torch
from torch import Tensor

from pipeline.diffusion.control import NO_CONTROL, Control, Wording
from pipeline.diffusion.schedule import NoiseSchedule
from pipeline.models.autoencoder import Autoencoder
from pipeline.models.compiled import CompiledNetwork
from pipeline.models.families import FAMILIES
from pipeline.models.grid import Grid, grid_of
from pipeline.models.hooks import RowsTaken
from pipeline.models.prompts import wording

# Bytes of embeddings that are kept: two thousand of SD 1.5's, nearly a hundred of SD3's. Source prompts may differ per
# image, and a batch's should fit.
_PROMPTS_KEPT: Final = 512 << 20


class Backbone(abc.ABC):
    """A frozen model behind the few operations that methods need.

    Latents, embeddings and outputs are float32 at this boundary; the network itself is held and runs in `dtype`. An
    embedding holds all that a prompt tells the network, as one tensor (tokens, width).

    Args:
        pipeline: one of diffusers', of a class in `FAMILIES`.
        name: what messages and artifacts call it.
        fingerprint: sha256 of its weights.
    """

    def __init__(self, pipeline: Any, name: str, fingerprint: str, device: torch.device, dtype: torch.dtype) -> None:
        self.name, self.fingerprint, self.device, self.dtype = name, fingerprint, device, dtype
        self.family = FAMILIES[type(pipeline).__name__]
        self._pipeline = pipeline
        self._network.to(dtype)
        self._autoencoder = Autoencoder(pipeline.vae, device, dtype)
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                part.to(device).eval().requires_grad_(False)
        self.compiled: CompiledNetwork | None = None

    def compile(self, backend: str = "inductor") -> None:
        """From now on call the network compiled: minutes the first time, then the faster (infra/decisions/0019)."""
        self.compiled = CompiledNetwork(self._network, self._structure, backend)

    @property
    def _network(self) -> Any:
        """The denoiser."""
        return getattr(self._pipeline, self.family.network)

    @property
    @abc.abstractmethod
    def _structure(self) -> RowsTaken:
        """The hook where rows take their layout from others."""

    @abc.abstractmethod
    def schedule(self, num_inference_steps: int) -> NoiseSchedule:
        """The checkpoint's own noise schedule, in `num_inference_steps` steps.

        Raises:
            JobError: the model cannot take as many.
        """

    @abc.abstractmethod
    def predict(self, z: Tensor, timestep: Tensor, embedding: Tensor, control: Control = NO_CONTROL) -> Tensor:
        """The network's output for latents (n, c, h, w) at timesteps (n,) under embeddings (n, tokens, width)."""

    @abc.abstractmethod
    def predict_watching(
        self, z: Tensor, timestep: Tensor, embedding: Tensor, words: Tensor, control: Control = NO_CONTROL
    ) -> tuple[Tensor, Tensor]:
        """The same, and how much each cell attends to each word: (n, words, h, w), averaged over heads and levels.

        `words` (n, words, tokens) is 1 at the tokens of each word. For families with cross-attention.
        """

    @abc.abstractmethod
    def _embed(self, prompt: str) -> Tensor:
        """One prompt → its embedding (tokens, width)."""

    @property
    def side(self) -> int:
        """Side of the square, in pixels, that the model was trained at."""
        return self._grid.side

    @property
    def stride(self) -> int:
        """Working sizes are multiples of this many pixels."""
        return self._grid.stride

    @cached_property
    def _grid(self) -> Grid:
        return grid_of(self._network.config, self._pipeline.vae.config)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Pixels (n, 3, h, w) in [0, 1] → scaled latents."""
        return self._autoencoder.encode(pixels)

    def decode_latents(self, z: Tensor) -> Tensor:
        """Scaled latents → pixels (n, 3, h, w) in [0, 1]."""
        return self._autoencoder.decode(z)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Tensor:
        """Prompts → embeddings (n, tokens, width); texts used lately are not encoded again."""
        # The encoders' weights stay in single precision: each prompt passes once, and some overflow.
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32):
            return torch.stack([self._embedded(prompt) for prompt in prompts])

    @cached_property
    def _embedded(self) -> Callable[[str], Tensor]:
        empty = self._embed("")  # which every call has
        kept = lru_cache(max(1, _PROMPTS_KEPT // empty.nbytes))(self._embed)
        return lambda prompt: kept(prompt) if prompt else empty

    @property
    def _tokenizer(self) -> Any:
        """The tokenizer whose tokens cross-attention sees, of those that a family has."""
        return self._pipeline.tokenizer

    def holds(self, prompt: str) -> bool:
        """Whether the whole prompt fits into the text window; of a longer one the rest is cut off, as in diffusers."""
        return len(self._tokenizer(prompt, truncation=False).input_ids) <= int(self._tokenizer.model_max_length)

    def wording(
        self, sources: Sequence[str], targets: Sequence[str], weights: Sequence[Mapping[str, float]]
    ) -> Wording:
        """How the tokens of n target prompts correspond to those of their source prompts, and their weights."""
        return wording(self._tokenizer, sources, targets, weights).to(self.device)

    def working_size(self, width: int, height: int, side: int) -> tuple[int, int]:
        """The (width, height) of area about `side`² whose aspect ratio is nearest, in multiples of the stride."""
        return Grid(side, self.stride).working_size(width, height)
