"""Small, randomly initialised networks of transformers' and torchvision's shapes, saved as users have them."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, ViTConfig, ViTModel

from pipeline.config import ScoreWeights
from pipeline.demo.scene import caption_words
from pipeline.models.catalogue import new_tokenizer
from pipeline.models.lpips import squeezenet_features

_SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def save_networks(home: Path) -> ScoreWeights:
    """All three, in folders of their names."""
    folders = {
        "clip": save_clip(home / "clip"),
        "dino": save_dino(home / "dino"),
        "lpips": save_squeezenet(home / "lpips"),
    }
    return ScoreWeights(**{name: str(folder) for name, folder in folders.items()})


def save_clip(folder: Path) -> Path:
    """A CLIP with the catalogue's vocabulary and pictures of 32 pixels."""
    torch.manual_seed(0)
    tokenizer = new_tokenizer(caption_words())
    special = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    text = _SIZES | {"vocab_size": len(tokenizer), "max_position_embeddings": 16} | special
    vision = _SIZES | {"image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_dino(folder: Path) -> Path:
    """A vision transformer of three blocks, for pictures of 32 pixels."""
    torch.manual_seed(1)
    sizes = _SIZES | {"num_hidden_layers": 3}
    # Weights of the usual 0.02 would make all keys nearly equal.
    ViTModel(ViTConfig(image_size=32, patch_size=8, initializer_range=0.3, **sizes)).save_pretrained(folder)
    return folder


def save_squeezenet(folder: Path) -> Path:
    """A backbone for LPIPS under torchvision's file and tensor names."""
    torch.manual_seed(2)
    folder.mkdir(parents=True, exist_ok=True)
    state = {f"features.{name}": tensor for name, tensor in squeezenet_features().state_dict().items()}
    classifier = {"classifier.1.weight": torch.zeros(1), "classifier.1.bias": torch.zeros(1)}
    torch.save(state | classifier, folder / "squeezenet1_1-b8a52dc0.pth")
    return folder
