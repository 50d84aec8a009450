"""Outputs of several runs, and the jobs behind them, for tests of what is removed and merged."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.config import JobConfig
from pipeline.errors import RowError
from pipeline.io.artifacts import SCHEMAS, identities
from pipeline.io.rewriting import read_index
from pipeline.io.run_record import Command
from pipeline.io.storage import list_files
from pipeline.planning import Plan
from pipeline.records import PromptRow
from pipeline.stages.rows import Asked
from tests.small_job import photograph
from tests.stages.conftest import FINGERPRINT, Job, StandInEditor

OLD = (
    PromptRow(edit_id="blue", prompt="a blue photo", strength=(0.5, 1.0)),
    PromptRow(edit_id="red", prompt="a red photo"),
)
# Some pictures are replaced, one edit fails, one is no longer asked for.
NEW = (
    PromptRow(edit_id="blue", prompt="a bluer photo", strength=(0.5, 1.0)),
    PromptRow(edit_id="bad", prompt="a bad photo"),
)
ASKED = ("a", "b", "c", "missing")
# What a later manifest leaves of it.
LEFT = ("a", "c")


def photographs(folder: Path) -> None:
    """Write the photographs, long ago."""
    folder.mkdir()
    for seed, name in enumerate(ASKED[:-1]):
        (folder / name).write_bytes(photograph(seed))
        os.utime(folder / name, (0, 0))


def rows(folder: Path, names: Sequence[str]) -> list[Asked]:
    """Rows of a plan."""
    return [
        Asked(image_id=name, image_uri=str(folder / name), source_prompt="a photo", mask_uri=None) for name in names
    ]


def run(output: Path, asked: Sequence[Asked], prompts: Sequence[PromptRow]) -> Any:
    """A run of the three stages, a few images at a time; its counts."""
    editor = StandInEditor({"a bad photo": RowError("non_finite", "NaN")})
    job = Job(output, editor, prompts, dtype="float32")
    return [job.run(asked[start : start + 2]) for start in range(0, len(asked), 2)]


def make(folder: Path) -> Path:
    """An output with superseded edits, withdrawals, failures that passed and others, in several files of each table."""
    photographs(folder / "in")
    run(folder / "out", rows(folder / "in", ASKED), OLD)
    run(folder / "out", rows(folder / "in", ASKED), NEW)
    return folder / "out"


def plan(output: Path | str, asked: Sequence[Asked], prompts: Sequence[PromptRow], command: Command = "run") -> Plan:
    """The plan of such a run."""
    config = JobConfig(output=str(output), dtype="float32")
    return Plan(command, config, pa.Table.from_pylist(list(asked)), tuple(prompts), (), FINGERPRINT, edits=0)


def rows_of(output: Path) -> dict[str, Counter[str]]:
    """How often each row is there, by table."""
    found = {}
    for kind in SCHEMAS:
        index = read_index(str(output), kind)
        found[kind] = Counter(identities(kind, index.rows))
    return found


def files_of(output: Path) -> dict[str, int]:
    """How many files each table has."""
    return {kind: len(list_files(f"{output}/{kind}", ".parquet")) for kind in SCHEMAS}
