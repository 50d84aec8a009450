"""Engines that tell where they work, and wait where a test wants it; light, since workers import them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from pipeline.config import JobConfig
from pipeline.stages.engine import Engine
from pipeline.stages.guards import GuardedEditor, InProcess
from pipeline.stages.rows import Fetched, Made
from tests.stages.stand_in import StandInEditor


@dataclass(frozen=True)
class Work:
    """An image that was begun, on a node, by an actor that has these GPUs."""

    node: str
    gpus: str
    image_id: str


@dataclass(frozen=True)
class Watched:
    """Loads the real engine around a stand-in of the editor; its notes are names of files in a folder."""

    folder: Path

    def __call__(self, config: JobConfig, *_: Any, apart: str | None) -> Any:
        engine = _engine(config)
        node = ray.get_runtime_context().get_node_id()
        gpus = "+".join(map(str, ray.get_gpu_ids()))

        def watched(rows: Sequence[Fetched]) -> Iterator[list[Made]]:
            for row in rows:
                (self.folder / f"{node} {gpus} {row['image_id']}").touch()
            while (self.folder / f"hold {node}").exists():
                time.sleep(0.02)
            yield from engine(rows)

        return watched

    def hold(self, node: str) -> None:
        """Let a node's actors wait with what they have begun."""
        (self.folder / f"hold {node}").touch()

    def let_go(self, node: str = "*") -> None:
        """Let a node's actors go on, or all."""
        for path in self.folder.glob(f"hold {node}"):
            path.unlink()

    def seen(self) -> list[Work]:
        """What was begun so far, each image once by node."""
        return [Work(*path.name.split(" ")) for path in self.folder.iterdir() if not path.name.startswith("hold ")]


@dataclass(frozen=True)
class Together:
    """Loads an engine that goes on with an image once `count` of them were begun, which it cannot do by itself."""

    folder: Path
    count: int

    def __call__(self, config: JobConfig, *_: Any, apart: str | None) -> Any:
        engine = _engine(config)

        def together(rows: Sequence[Fetched]) -> Iterator[list[Made]]:
            for row in rows:
                (self.folder / row["image_id"]).touch()
            deadline = time.monotonic() + 60
            while len(list(self.folder.iterdir())) < self.count:
                assert time.monotonic() < deadline, "the others were not begun"
                time.sleep(0.02)
            yield from engine(rows)

        return together


def _engine(config: JobConfig) -> Engine:
    return Engine(config, GuardedEditor(InProcess(StandInEditor(), None)))
