"""Parts of a benchmark on disk: one file per system and chunk of scenes, so that a run goes on where it stopped."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from pipeline.quality.running import Part
from pipeline.quality.scores import Measured


class Parts:
    """A folder of parts by their keys. Scores are not stored: they follow from outputs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def load(self, key: str) -> Part | None:
        """The part of this key; None where there is none, or a file that cannot be read."""
        try:
            with np.load(self._path(key), allow_pickle=False) as stored:
                measured = [Measured(**values) for values in json.loads(str(stored["measured"]))]
                return Part(stored["outputs"], measured)
        except (FileNotFoundError, zipfile.BadZipFile, ValueError, KeyError):
            return None

    def save(self, key: str, part: Part) -> None:
        """Write a part; whoever reads meanwhile sees all of it or nothing."""
        partial = self._path(key).with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as file:
            measured = json.dumps([asdict(m) for m in part.measured])
            np.savez_compressed(file, outputs=part.outputs, measured=np.array(measured))
        partial.replace(self._path(key))

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.npz"
