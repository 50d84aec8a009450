"""The runbook speaks of things that there are."""

from __future__ import annotations

import re

import yaml

from jobs.cli import COMMANDS, imported
from pipeline.cluster import metrics
from pipeline.config import JobConfig
from pipeline.errors import CODES
from pipeline.io.artifacts import SCHEMAS
from pipeline.settings import InversionSettings
from pipeline.stages.flags import FLAGS
from tests.commands import ROOT

TEXT = (ROOT / "infra/runbook.md").read_text(encoding="utf-8")
SPANS = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", TEXT)]
SECTIONS = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]


def test_every_section_goes_from_symptom_to_evidence_to_an_experiment() -> None:
    """In this order, and each is there."""
    assert len(SECTIONS) == 11
    for section in SECTIONS:
        marks = re.findall(r"\*\*(Symptom|Evidence|Experiment)", section)
        assert marks[:3] == ["Symptom", "Evidence", "Experiment"], section.splitlines()[0]
        assert len(marks) % 3 == 0


def test_metrics_codes_columns_and_values_that_it_names_exist() -> None:
    """Every word of code with an underscore is one of them, or a field of a job's configuration."""
    words = {word for span in SPANS for word in re.findall(r"(?<![\w./-])[a-z]+(?:_[a-z]+)+(?![\w/-])", span)}
    known = {*CODES, *FLAGS, *(name for schema in SCHEMAS.values() for name in schema.names)}
    known |= {*JobConfig.model_fields, *InversionSettings.model_fields, *metrics.COUNTERS, metrics.BUSY}
    known |= yaml.safe_load((ROOT / "infra/values.yaml").read_text(encoding="utf-8")).keys()
    assert {word.removeprefix("ray_") for word in words} <= known
    assert {*CODES} & words > {"out_of_memory", "storage_unavailable", "worker_died", "timed_out"}


def test_commands_and_flags_that_it_names_exist() -> None:
    """A flag behind a command is that command's, one by itself some command's; other programs' are theirs."""
    options = {name: {flag for option in imported(name).params for flag in option.opts} for name in COMMANDS}
    named = 0
    for span in SPANS:
        program, *words = span.split()
        flags = {word for word in words if word.startswith("--")}
        if program == "relatent":
            assert flags <= options[words[0]], span
        elif program.startswith("--"):
            assert program in set().union(*options.values()), span
            named += 1
    assert named > 8
