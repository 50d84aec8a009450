"""`relatent bench quality`: every system on the same held-out edits, against their true results, in resumable parts."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Final

import torch

from pipeline.config import PRESETS
from pipeline.errors import JobError
from pipeline.keys import canonical_json, content_key
from pipeline.models.peers import PEERS
from pipeline.models.stable_diffusion import StableDiffusion
from pipeline.pixels import Pixels
from pipeline.quality.cases import KINDS, TUNING_SEEDS, Case
from pipeline.quality.parts import Parts
from pipeline.quality.running import Chunk, Part
from pipeline.quality.scores import BACKGROUND_DB, SUCCESS_DB, Score, score, summarise
from pipeline.quality.systems import AnySystem, PeerSystem, System, Unedited, own_systems, system_key
from pipeline.quality.tuning import Settings, Tuned, tune, untuned

UNEDITED: Final = "unedited"
SYSTEMS: Final = (UNEDITED, *own_systems(), *PEERS)

_CHUNK: Final = 16  # scenes; what a run loses at most when it is stopped, and holds in memory


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured: held-out scenes, and scenes to tune peers on; with none of these, peers stay untuned."""

    scenes: int
    tuning_scenes: int


FULL: Final = Extent(scenes=128, tuning_scenes=6)
QUICK: Final = Extent(scenes=3, tuning_scenes=0)


@dataclass(frozen=True, slots=True)
class Example:
    """One case, and what each system made of it."""

    case: Case
    outputs: Mapping[str, Pixels]
    scores: Mapping[str, Score]


@dataclass(frozen=True, slots=True)
class QualityReport:
    """What the bench measured.

    Attributes:
        model: the model's fingerprint.
        systems: name → kind → figures, as `summarise` gives them; one that could not run is in `skipped`, with why.
        peers: name → the settings it ran with, and how they were found.
    """

    scenes: int
    model: str
    machine: str
    systems: dict[str, dict[str, dict[str, float | None]]]
    peers: dict[str, Tuned]
    skipped: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        return {
            "scenes": self.scenes,
            "edits": self.scenes * len(KINDS),
            "model": self.model,
            "machine": self.machine,
            "success": {"gain_db": SUCCESS_DB, "background_db": BACKGROUND_DB},
            "systems": self.systems,
            "peers": {name: {"paper": PEERS[name].paper, **tuned.as_json()} for name, tuned in self.peers.items()},
            "skipped": self.skipped,
        }


class QualityBench:
    """One measurement, and its parts on disk.

    Args:
        folder: where parts are kept; the same measurement again reads them.
        names: which of `SYSTEMS`; none are all.
        say: is told in one line what was done.

    Raises:
        JobError: an unknown system, more scenes than there are before the tuning's, or a model that peers are not for.
    """

    def __init__(
        self,
        model: StableDiffusion,
        folder: Path,
        extent: Extent,
        names: Collection[str] = (),
        batch: int = 32,
        say: Callable[[str], None] = print,
    ) -> None:
        unknown = sorted(set(names) - set(SYSTEMS))
        if unknown:
            raise JobError(f"systems: expected some of {', '.join(SYSTEMS)}; got {', '.join(unknown)}")
        if not 1 <= extent.scenes <= TUNING_SEEDS:
            raise JobError(f"scenes: expected 1 to {TUNING_SEEDS}; got {extent.scenes}")
        self._model, self._extent, self._batch, self._say = model, extent, batch, say
        self._parts = Parts(folder)
        self._names = [name for name in SYSTEMS if not names or name in names]
        self._peers: dict[str, Tuned] = {}
        self._skipped: dict[str, str] = {}
        self._scores: dict[str, list[Score]] = defaultdict(list)

    def measure(self) -> QualityReport:
        """Run what is missing, and score everything."""
        for name in self._names:
            if name in PEERS:
                self._tune(name)
        chunks = _seeds(range(self._extent.scenes))
        for k, seeds in enumerate(chunks):
            self._measure(seeds, f"part {k + 1} of {len(chunks)}")
        ran = [name for name in self._names if name not in self._skipped]
        return QualityReport(
            scenes=self._extent.scenes,
            model=self._model.fingerprint,
            machine=f"{_machine(self._model)}, {self._model.dtype}".replace("torch.", ""),
            systems={name: summarise(self._scores[name]) for name in ran},
            peers={name: tuned for name, tuned in self._peers.items() if name in ran},
            skipped=self._skipped,
        )

    def examples(self, name: str, count: int) -> tuple[list[Example], list[Example]]:
        """The `count` cases that were worth most, and those that were worth least, to a measured system."""
        order = sorted(range(len(self._scores[name])), key=lambda n: -self._scores[name][n].worth)
        found = {n: self._example(n) for n in {*order[:count], *order[-count:]}}
        return [found[n] for n in order[:count]], [found[n] for n in reversed(order[-count:])]

    def _example(self, n: int) -> Example:
        scene, kind = divmod(n, len(KINDS))
        seeds = next(seeds for seeds in _seeds(range(self._extent.scenes)) if scene in seeds)
        at = (scene - seeds.start) * len(KINDS) + kind
        case = Chunk(self._model, range(scene, scene + 1), self._batch).cases[kind]
        systems = {name: system for name, system in self._systems().items() if name in self._scores}
        parts = {name: self._parts.load(self._key(system, seeds)) for name, system in systems.items()}
        outputs = {name: part.outputs[at] for name, part in parts.items() if part is not None}
        return Example(case, outputs, {name: self._scores[name][n] for name in outputs})

    def _measure(self, seeds: range, which: str) -> None:
        chunk = Chunk(self._model, seeds, self._batch)
        # Equal inversions in a row, so that each is made once.
        for name, system in sorted(self._systems().items(), key=_inversion_of):
            part = self._run_or_skip(name, system, chunk, which)
            if part is not None:
                rows = zip(chunk.cases, part.outputs, part.measured, strict=True)
                self._scores[name] += [score(case, output, measured) for case, output, measured in rows]

    def _systems(self) -> dict[str, AnySystem]:
        peers = {name: PeerSystem(name, tuned.settings) for name, tuned in self._peers.items()}
        known: dict[str, AnySystem] = {UNEDITED: Unedited(), **own_systems(), **peers}
        return {name: known[name] for name in self._names if name in known and name not in self._skipped}

    def _tune(self, name: str) -> None:
        knobs = PEERS[name].knobs
        chunks = [
            Chunk(self._model, seeds, self._batch)
            for seeds in _seeds(range(TUNING_SEEDS, TUNING_SEEDS + self._extent.tuning_scenes))
        ]

        def worth_of(settings: Settings) -> float:
            worths = []
            for chunk in chunks:
                part = self._part(name, PeerSystem(name, settings), chunk, f"tuning, {_listed(settings)}")
                worths += [score(c, output).worth for c, output in zip(chunk.cases, part.outputs, strict=True)]
            return mean(worths)

        try:
            self._peers[name] = tune(knobs, worth_of) if chunks else untuned(knobs)
        except _PeerError as error:
            self._skip(name, error)

    def _run_or_skip(self, name: str, system: AnySystem, chunk: Chunk, which: str) -> Part | None:
        try:
            return self._part(name, system, chunk, which)
        except _PeerError as error:
            self._skip(name, error)
            return None

    def _skip(self, name: str, error: _PeerError) -> None:
        self._skipped[name] = str(error)
        self._say(f"{name}: skipped ({error})")

    def _part(self, name: str, system: AnySystem, chunk: Chunk, which: str) -> Part:
        key = self._key(system, chunk.seeds)
        part = self._parts.load(key)
        if part is None:
            began = time.perf_counter()
            part = _run(chunk, system)
            self._parts.save(key, part)
            self._say(f"{name}: {which}, {len(part.outputs)} edits, {time.perf_counter() - began:.1f} s")
        return part

    def _key(self, system: AnySystem, seeds: range) -> str:
        return content_key(
            {
                "kind": "quality part",
                "system": system_key(system),
                "model": self._model.fingerprint,
                "dtype": str(self._model.dtype),
                "seeds": [seeds.start, seeds.stop],
            }
        )


class _PeerError(Exception):
    """A peer could not run; its text says why, in one line."""


def _run(chunk: Chunk, system: AnySystem) -> Part:
    if not isinstance(system, PeerSystem):
        return chunk.run(system)
    try:
        return chunk.run(system)
    except Exception as error:  # other people's code, which need not run on every model
        raise _PeerError(f"{type(error).__name__}: {' '.join(str(error).split())}") from error


def _seeds(seeds: range) -> list[range]:
    return [seeds[start : start + _CHUNK] for start in range(0, len(seeds), _CHUNK)]


def _inversion_of(item: tuple[str, AnySystem]) -> str:
    _, system = item
    return canonical_json(system.inversion.model_dump()) if isinstance(system, System) else ""


def _listed(settings: Settings) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _machine(model: StableDiffusion) -> str:
    if model.device.type == "cuda":
        return torch.cuda.get_device_name(model.device)
    return f"{torch.get_num_threads()} CPU threads"


def ours(systems: Collection[str]) -> str | None:
    """Of the systems that ran, the one whose examples are shown: `balanced`, else another of ours."""
    return next((name for name in ("balanced", *PRESETS, *own_systems()) if name in systems), None)
