"""LPIPS on SqueezeNet 1.1 (Zhang et al., 2018): how different two images look to a classifier's features.

torchmetrics holds the heads' weights, but fetches the backbone's through torchvision, from a fixed address and
without asking. So the backbone stands here, under torchvision's names, and its weights come from a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import JobError
from pipeline.models.weights import backbone_file, heads_file

# Which of the backbone's layers are compared, and how many channels each has.
_TAPS: Final = {1: 64, 4: 128, 7: 256, 9: 384, 10: 384, 11: 512, 12: 512}


class _Fire(nn.Module):
    """A SqueezeNet block: few channels, then `expand` of 1×1 and `expand` of 3×3 (Iandola et al., 2016, figure 1)."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(squeezed).relu(), self.expand3x3(squeezed).relu()], dim=1)


def squeezenet_features() -> nn.Sequential:
    """The convolutional part of SqueezeNet 1.1, its layers numbered as torchvision numbers them."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, stride=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        _Fire(64, 16, 64),
        _Fire(128, 16, 64),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        _Fire(128, 32, 128),
        _Fire(256, 32, 128),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        _Fire(256, 48, 192),
        _Fire(384, 48, 192),
        _Fire(384, 64, 256),
        _Fire(512, 64, 256),
    )


class Lpips(nn.Module):
    """The distance of two images, 0 where they are equal."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = squeezenet_features()
        self.heads = nn.ParameterList([nn.Parameter(torch.zeros(1, channels, 1, 1)) for channels in _TAPS.values()])
        # ImageNet's mean and deviation, for images in [-1, 1].
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))

    @classmethod
    def from_pretrained(cls, path: str) -> Lpips:
        """Load the backbone from torchvision's `squeezenet1_1`, a .safetensors or .pth file or the folder it is in.

        Raises:
            JobError: it is not there or not that network, or torchmetrics, which holds the heads, is not installed.
        """
        network = cls()
        backbone = {name: t for name, t in _read(backbone_file(path)).items() if name.startswith("features.")}
        heads = _read(heads_file())
        try:
            network.features.load_state_dict({name.removeprefix("features."): t for name, t in backbone.items()})
            for i, head in enumerate(network.heads):
                head.data.copy_(heads[f"lin{i}.model.1.weight"])
        except (RuntimeError, KeyError) as error:
            raise JobError(f"lpips {path}: expected the weights of torchvision's squeezenet1_1") from error
        return network.eval().requires_grad_(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Images (n, 3, h, w) in [-1, 1] → distances (n,); Zhang et al., 2018, equation 1."""
        total = torch.zeros(len(a), device=a.device)
        x = torch.cat([(a - self.shift) / self.scale, (b - self.shift) / self.scale])
        heads = dict(zip(_TAPS, self.heads, strict=True))
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in heads:
                # Where both images are black to the network there is no direction to compare.
                of_a, of_b = (x / (x.square().sum(dim=1, keepdim=True) + 1e-8).sqrt()).chunk(2)
                total = total + (heads[i] * (of_a - of_b).square()).sum(dim=1).mean(dim=(1, 2))
        return total


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # These are published as pickles only; this reader builds tensors and runs no code.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise anything in the two readers
        raise JobError(f"lpips {path}: expected tensors by name; got {type(error).__name__} on reading") from error
    if not isinstance(state, dict):
        raise JobError(f"lpips {path}: expected tensors by name; got {type(state).__name__}")
    return state
