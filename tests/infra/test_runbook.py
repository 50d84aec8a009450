"""The runbook speaks of things that there are."""

from __future__ import annotations

import re

import yaml

from jobs.options import _FIELDS
from pipeline.cluster import metrics
from pipeline.errors import CODES
from pipeline.stages.flags import FLAGS
from tests.commands import ROOT

TEXT = (ROOT / "infra/runbook.md").read_text(encoding="utf-8")
SECTIONS = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]


def test_every_section_goes_from_symptom_to_evidence_to_an_experiment() -> None:
    """In this order, and each is there."""
    assert len(SECTIONS) == 11
    for section in SECTIONS:
        marks = re.findall(r"\*\*(Symptom|Evidence|Experiment)", section)
        assert marks[:3] == ["Symptom", "Evidence", "Experiment"], section.splitlines()[0]
        assert len(marks) % 3 == 0


def test_what_it_names_exists() -> None:
    """Metrics, failure codes, flags of commands, and values of the templates."""
    named = set(re.findall(r"`(?:ray_)?(relatent_\w+)", TEXT))
    assert named <= {*metrics.COUNTERS, metrics.BUSY}
    values = yaml.safe_load((ROOT / "infra/values.yaml").read_text(encoding="utf-8"))
    assert set(re.findall(r"`((?:cpu|gpu|spot)_\w+|role_arn)\b", TEXT)) <= values.keys()
    flags = set(re.findall(r"`--([a-z-]+)", TEXT))
    assert flags <= _FIELDS.keys()
    codes = {"out_of_memory", "storage_unavailable", "publish_failed", "reconstruction_short"}
    assert codes <= {*CODES, *FLAGS}
    assert all(f"`{code}`" in TEXT or f'"{code}"' in TEXT for code in codes)
