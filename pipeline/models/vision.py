"""Networks that see: CLIP's joint space of images and texts, and the keys of a vision transformer (DINO)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer, ViTModel

from pipeline.errors import JobError
from pipeline.models.weights import check_named


class Clip:
    """CLIP (Radford et al., 2021); the published figures are of ViT-L/14."""

    def __init__(self, name: str, device: torch.device) -> None:
        self._model: Any = _loaded(CLIPModel, "clip", name).to(device)
        self._device = device
        try:
            self._tokenizer: Any = CLIPTokenizer.from_pretrained(name)
            # The published figures were made with Pillow's resampling, which is what this processor has.
            self._processor: Any = CLIPImageProcessorPil.from_pretrained(name)
        except (OSError, ValueError, TypeError) as error:
            raise JobError(f"clip {name}: {_line(error)}") from error

    @torch.no_grad()
    def similarity(self, pixels: NDArray[np.uint8], text: str) -> float:
        """100 × the cosine of an image (h, w, 3) and a text, at least 0 (CLIPScore; Hessel et al., 2021)."""
        seen = self._processor(images=[pixels], return_tensors="pt", input_data_format="channels_last")
        window = self._model.config.text_config.max_position_embeddings
        read = self._tokenizer([text], truncation=True, max_length=window, return_tensors="pt").to(self._device)
        image = self._model.get_image_features(pixel_values=seen["pixel_values"].to(self._device)).pooler_output
        words = self._model.get_text_features(**read).pooler_output
        return 100 * float(torch.cosine_similarity(image, words).clamp(min=0))  # what is not a number stays that


class VisionKeys:
    """The keys of a vision transformer's last block; the published figures are of DINO ViT-B/8, whose twelfth it is."""

    def __init__(self, name: str, device: torch.device) -> None:
        self._model: Any = _loaded(ViTModel, "dino", name, add_pooling_layer=False).to(device)
        self.device = device

    @property
    def side(self) -> int:
        """Side of the square, in pixels, that the network was trained at."""
        return int(self._model.config.image_size)

    @torch.no_grad()
    def keys(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (n, 3, h, w) → keys (n, tokens, width), all heads side by side, the class token first."""
        found: list[Tensor] = []
        hook = self._model.layers[-1].attention.k_proj.register_forward_hook(lambda _m, _i, keys: found.append(keys))
        try:
            self._model(pixel_values=pixels.to(self.device), interpolate_pos_encoding=True)
        finally:
            hook.remove()
        return found[0]


def _loaded(kind: Any, measure: str, name: str, **options: Any) -> Any:
    """A frozen network from a local folder or a hub id, in float32."""
    check_named(measure, name)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        model, info = kind.from_pretrained(
            name, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **options
        )
    except Exception as error:  # damaged files raise anything in their readers
        raise JobError(f"{measure} {name}: {_line(error)}") from error
    # What a checkpoint lacks is initialised at random, and would be measured with all the same.
    if info["missing_keys"]:
        raise JobError(
            f"{measure} {name}: expected the weights of a {kind.__name__}; got none for {min(info['missing_keys'])}"
        )
    return model.eval().requires_grad_(False)


def _line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
