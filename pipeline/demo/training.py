"""What both training stages share: the learning-rate schedule, the averaged weights, checkpoints, pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image
from torch import Tensor, nn

_WARMUP_STEPS: Final = 200
_DECAY_SHARE: Final = 0.25


@dataclass(frozen=True, slots=True)
class StageSettings:
    """How long and how fast one stage trains."""

    steps: int
    batch_size: int
    learning_rate: float
    ema_decay: float = 0.999
    report_every: int = 250


def learning_rate_factor(step: int, steps: int) -> float:
    """Warm-up, plateau, then a cosine down to zero over the last quarter.

    The plateau does not depend on `steps`, so a run that stopped can be continued with more of them.
    """
    decay_start = steps * (1 - _DECAY_SHARE)
    warm = min(1.0, (step + 1) / _WARMUP_STEPS)
    if step < decay_start:
        return warm
    return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - decay_start) / (steps - decay_start))))


class Averaged:
    """Exponential moving average of modules' parameters, in float32."""

    def __init__(self, modules: Iterable[nn.Module], decay: float) -> None:
        self._modules = list(modules)
        self._decay = decay
        self._mean = [{k: v.detach().clone() for k, v in m.named_parameters()} for m in self._modules]

    def update(self, step: int) -> None:
        """Move the mean towards the current weights; early on it forgets its random start faster."""
        decay = min(self._decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for module, mean in zip(self._modules, self._mean, strict=True):
                for name, parameter in module.named_parameters():
                    mean[name].lerp_(parameter, 1 - decay)

    def swap(self) -> None:
        """Exchange current and averaged weights; calling it twice restores both."""
        with torch.no_grad():
            for module, mean in zip(self._modules, self._mean, strict=True):
                for name, parameter in module.named_parameters():
                    kept = parameter.detach().clone()
                    parameter.copy_(mean[name])
                    mean[name] = kept

    def state(self) -> list[dict[str, Tensor]]:
        return self._mean

    def load(self, state: list[dict[str, Tensor]]) -> None:
        self._mean = state


@dataclass
class Run:
    """One stage in progress: what a checkpoint holds and what brings it back."""

    path: Path
    modules: list[nn.Module]
    optimizer: torch.optim.Optimizer
    averaged: Averaged
    losses: list[float]
    step: int = 0

    def save(self) -> None:
        state: dict[str, Any] = {
            "step": self.step,
            "losses": self.losses,
            "modules": [m.state_dict() for m in self.modules],
            "optimizer": self.optimizer.state_dict(),
            "averaged": self.averaged.state(),
        }
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        partial.rename(self.path)

    def resume(self) -> bool:
        """Continue from the checkpoint if there is one."""
        if not self.path.exists():
            return False
        # A checkpoint may have been written on another device than the one it is continued on.
        device = next(self.modules[0].parameters()).device
        state = torch.load(self.path, weights_only=True, map_location=device)
        for module, weights in zip(self.modules, state["modules"], strict=True):
            module.load_state_dict(weights)
        self.optimizer.load_state_dict(state["optimizer"])
        self.averaged.load(state["averaged"])
        self.step, self.losses = state["step"], state["losses"]
        return True


def start(path: Path, modules: list[nn.Module], parameters: list[dict[str, Any]], settings: StageSettings) -> Run:
    """Set up a stage, from its checkpoint where there is one."""
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    run = Run(path, modules, optimizer, Averaged(modules, settings.ema_decay), [])
    if run.resume():
        print(f"{path.stem}: continuing at step {run.step}", flush=True)
    return run


def train(
    run: Run,
    settings: StageSettings,
    loss_of: Callable[[int], Tensor],
    report: Callable[[Run], None],
) -> None:
    """Optimise until `settings.steps`; checkpoint and report at intervals, with the averaged weights in place."""
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    base = [settings.learning_rate * group.get("scale", 1.0) for group in run.optimizer.param_groups]
    while run.step < settings.steps:
        factor = learning_rate_factor(run.step, settings.steps)
        for group, rate in zip(run.optimizer.param_groups, base, strict=True):
            group["lr"] = rate * factor
        loss = loss_of(run.step)
        run.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        run.optimizer.step()
        run.averaged.update(run.step)
        run.losses.append(float(loss.detach()))
        run.step += 1
        if run.step % settings.report_every == 0 or run.step == settings.steps:
            run.save()
            run.averaged.swap()
            report(run)
            run.averaged.swap()


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 for the network's products; losses and weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16)


def save_grid(path: Path, images: Tensor, columns: int, scale: int = 2) -> None:
    """Write images (n, 3, h, w) in [0, 1] as one picture, `columns` to a row."""
    n, _, h, w = images.shape
    rows = math.ceil(n / columns)
    sheet = torch.ones(rows * columns, 3, h, w)
    sheet[:n] = images.detach().float().cpu().clamp(0, 1)
    pixels = sheet.view(rows, columns, 3, h, w).permute(0, 3, 1, 4, 2).reshape(rows * h, columns * w, 3)
    picture = Image.fromarray((pixels * 255).round().byte().numpy())
    picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST).save(path)


def save_curve(path: Path, losses: list[float], title: str) -> None:
    """Draw the loss over steps, smoothed over one hundred of them."""
    from matplotlib.figure import Figure

    window = min(100, len(losses))
    smooth = torch.tensor(losses).unfold(0, window, 1).mean(dim=1)
    # A figure of its own, not pyplot's: no global state, no display.
    figure = Figure(figsize=(7, 4))
    axes = figure.add_subplot()
    axes.plot(range(window, window + len(smooth)), smooth.tolist())
    axes.set(title=title, xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
