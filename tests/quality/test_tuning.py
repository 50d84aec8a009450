"""The search that peers are tuned by."""

from __future__ import annotations

from pipeline.models.peers import PEERS
from pipeline.quality.tuning import Settings, tune, untuned

KNOBS = {"a": (1, 2, 3), "b": ("x", "y")}


def test_the_search_finds_the_best_of_each_knob() -> None:
    """One knob after the other, each from the best so far; all that was tried is told."""
    found = tune(KNOBS, lambda s: s["a"] + 10 * (s["b"] == "y"))
    assert found.settings == {"a": 3, "b": "y"}
    assert [c.settings for c in found.candidates] == [
        {"a": 1, "b": "x"},
        {"a": 2, "b": "x"},
        {"a": 3, "b": "x"},
        {"a": 3, "b": "y"},
    ]


def test_a_change_has_to_be_better() -> None:
    """Among equals it stays where it began."""
    assert tune(KNOBS, lambda _: 0.0).settings == untuned(KNOBS).settings == {"a": 1, "b": "x"}


def test_every_peer_is_searched_alike() -> None:
    """Nobody gets more candidates than another."""

    def tried(knobs: dict[str, tuple[object, ...]]) -> int:
        seen: list[Settings] = []
        tune(knobs, lambda s: float(len(seen.append(s) or seen)))
        return len(seen)

    assert {tried(dict(peer.knobs)) for peer in PEERS.values()} == {9}
