"""The dashboard speaks of metrics that exist."""

from __future__ import annotations

import json
import re
from typing import Any

from pipeline.cluster import metrics
from tests.commands import ROOT

DASHBOARD: dict[str, Any] = json.loads((ROOT / "infra/grafana/relatent.json").read_text(encoding="utf-8"))
LABELS = {name: {*labels, "SessionName", "NodeAddress", "WorkerId"} for name, (_, labels) in metrics.COUNTERS.items()}


def expressions() -> list[str]:
    """Every query of every panel."""
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_every_metric_is_shown_and_every_one_shown_exists() -> None:
    """Neither a panel that stays empty, nor a metric that nobody sees."""
    named = {name for expression in expressions() for name in re.findall(r"ray_(relatent_\w+)", expression)}
    assert named == {*metrics.COUNTERS, metrics.BUSY}


def test_labels_are_those_of_the_metrics() -> None:
    """A query selects by, and groups by, labels that its metric has."""
    known = set().union(*LABELS.values())
    for expression in expressions():
        for name, selector in re.findall(r"ray_(relatent_\w+)\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)=", selector)) <= LABELS.get(name, known), expression
        assert {label for group in re.findall(r"by \((\w+)\)", expression) for label in [group]} <= known


def test_panels_do_not_overlap() -> None:
    """Each cell of the grid belongs to one panel at most, and ids are unique."""
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for position in [panel["gridPos"]]
        for x in range(position["x"], position["x"] + position["w"])
        for y in range(position["y"], position["y"] + position["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
