"""Training data: scenes rendered once into shards of uint8 images, in parallel processes, resumable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.demo.render import render
from pipeline.demo.scene import HELD_OUT_SEEDS, Scene, is_unseen, random_scene

_SHARD: Final = 512
_RENDER_BATCH: Final = 64


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Rendered scenes in memory: images (n, 3, size, size) uint8, and the scene of each."""

    images: Tensor
    scenes: list[Scene]


def training_scene(index: int) -> Scene:
    """The `index`-th training scene; its seed is never one of the benchmark's."""
    return random_scene(HELD_OUT_SEEDS + index)


def rendered(folder: Path, count: int, size: int, device: str = "cpu") -> TrainingSet:
    """Return those of the first `count` training scenes that may be trained on, rendering missing shards."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = [(folder / f"{size}px-{start:07d}.safetensors", start) for start in range(0, count, _SHARD)]
    missing = [(path, start, size, device) for path, start in shards if not path.exists()]
    if device == "cpu" and len(missing) > 1:
        workers = min(len(missing), os.cpu_count() or 1)
        # Spawned, since a forked child inherits torch's thread pool in a state it cannot use.
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(_render_shard, missing))
    else:
        for job in missing:
            _render_shard(job)
    images = torch.cat([load_file(path)["images"] for path, _ in shards])[:count]
    scenes = [training_scene(i) for i in range(count)]
    kept = [i for i, scene in enumerate(scenes) if not is_unseen(scene)]
    return TrainingSet(images[kept], [scenes[i] for i in kept])


def _render_shard(job: tuple[Path, int, int, str]) -> None:
    path, start, size, device = job
    if device == "cpu":
        torch.set_num_threads(1)
    parts = []
    for first in range(start, start + _SHARD, _RENDER_BATCH):
        batch = render([training_scene(i) for i in range(first, first + _RENDER_BATCH)], size, device)
        parts.append((batch.images * 255).round().to(torch.uint8).cpu())
    partial = path.with_suffix(".partial")
    save_file({"images": torch.cat(parts)}, partial)
    partial.rename(path)


def batches(count: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Shuffled index batches for ever; every epoch sees each index at most once."""
    while True:
        order = torch.randperm(count, generator=generator)
        yield from torch.split(order[: count - count % batch_size], batch_size)


def as_pixels(images: Tensor) -> Tensor:
    """uint8 (n, 3, h, w) → float32 in [-1, 1]."""
    return images.float() / 127.5 - 1
