"""The search that gives every peer its settings: the same for all, and as small for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Candidate:
    """Settings that were tried, and what they were worth."""

    settings: Settings
    worth: float


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a search found, and all that it tried; where it tried nothing, the settings it would begin with."""

    settings: Settings
    candidates: list[Candidate]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def untuned(knobs: Mapping[str, tuple[Any, ...]]) -> Tuned:
    """The settings a search begins with: each knob's first value."""
    return Tuned({name: values[0] for name, values in knobs.items()}, [])


def tune(knobs: Mapping[str, tuple[Any, ...]], worth_of: Callable[[Settings], float]) -> Tuned:
    """Turn one knob after the other, in their order, and keep the value that was worth most."""
    start = untuned(knobs).settings
    best = Candidate(start, worth_of(start))
    tried = [best]
    for name, values in knobs.items():
        turned = [{**best.settings, name: value} for value in values[1:]]
        found = [Candidate(settings, worth_of(settings)) for settings in turned]
        tried += found
        best = max([best, *found], key=lambda candidate: candidate.worth)
    return Tuned(best.settings, tried)
