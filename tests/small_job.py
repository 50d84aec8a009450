"""A job of a few small photographs over the small model, for tests of the cluster and the commands."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds

from pipeline.io.images import decode, encode_png

PROMPTS = (
    {"edit_id": "blue", "prompt": "a photo of a blue mug on a {place}", "strength": [0, 1]},
    {"edit_id": "green", "prompt": "a photo of a green mug", "where": {"place": "table"}},
)
# Few and short steps: these tests are about rows, not pictures.
SETTINGS = {"method": "prompt-tuning", "num_inference_steps": 2, "max_iterations": 1}


def photograph(seed: int, size: tuple[int, int] = (48, 32)) -> bytes:
    """PNG of soft noise, (width, height)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (size[1] // 8 + 1, size[0] // 8 + 1, 3), np.uint8)
    return encode_png(coarse.repeat(8, 0).repeat(8, 1)[: size[1], : size[0]], None, None)


def write_inputs(folder: Path, pictures: Mapping[str, bytes | None]) -> tuple[str, str]:
    """Write pictures (None: a row without its file) and both manifests; their URIs."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [["image_id", "image_uri", "source_prompt", "place"]]
    for i, (name, data) in enumerate(pictures.items()):
        image_id, _, suffix = name.partition(".")
        if data is not None:
            (folder / name).write_bytes(data)
        rows.append([image_id, f"{image_id}.{suffix}", "a photo of a red mug", "table" if i % 2 else "beach"])
    with (folder / "images.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    lines = "".join(json.dumps(prompt) + "\n" for prompt in PROMPTS)
    (folder / "prompts.jsonl").write_text(lines, encoding="utf-8")
    return str(folder / "images.csv"), str(folder / "prompts.jsonl")


def table(output: Path, kind: str) -> list[dict[str, Any]]:
    """All rows of one of an output's tables, duplicates and all."""
    folder = output / kind
    return ds.dataset(folder, format="parquet").to_table().to_pylist() if folder.exists() else []


def pixels(path: Path) -> Any:
    """A published picture, (h, w, 3)."""
    return decode(path.read_bytes(), 10**8).pixels


def flags(options: Mapping[str, Any]) -> Sequence[str]:
    """`{"batch-size": 1}` → `--batch-size 1`."""
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]
