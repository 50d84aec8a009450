"""`relatent demo`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from jobs.exits import DONE, SOME_FAILED, exits

if TYPE_CHECKING:
    from pipeline.counts import Counts
    from pipeline.planning import Plan


def demo(
    output: Annotated[Path, typer.Option("--output", help="folder for the catalogue and its results")] = Path(
        "out/demo"
    ),
) -> None:
    """Restyle the bundled catalogue with the bundled model; no network, no GPU."""
    exits(lambda: _demo(output))


def _demo(output: Path) -> int:
    from jobs.job import finish, started  # --help needs none of it
    from pipeline.demo.catalogue_job import write_catalogue

    plan = started("run", write_catalogue(output.resolve()))
    counts = finish(plan)
    sheet = output / "contact-sheet.png"
    if counts.inverted or counts.edited or not sheet.exists():
        _write_sheet(plan, sheet)
    Console().print(_table(plan, counts))
    Console().print(f"contact sheet: {sheet}", markup=False, highlight=False, soft_wrap=True)
    return SOME_FAILED if counts.failures else DONE


def _write_sheet(plan: Plan, sheet: Path) -> None:
    from pipeline.demo.contact_sheet import contact_sheet
    from pipeline.models.assembly import load_backbone

    model = load_backbone(plan.config.model, "cpu")
    sheet.write_bytes(contact_sheet(plan.output, plan.prompts, model))


def _table(plan: Plan, counts: Counts) -> Table:
    from pipeline.asking import Asking

    edits: Counter[str] = Counter()
    asking = Asking(plan.prompts)
    for row in plan.images.to_pylist():
        edits.update(edit.edit_id for edit in asking.of(row)[0])
    table = Table(title=f"{counts.images} photographs, {counts.edits} edits, {counts.failures} failures")
    for name in ("edit", "prompt", "strengths"):
        table.add_column(name)
    table.add_column("pictures", justify="right")
    for prompt in plan.prompts:
        strengths = ", ".join(f"{strength:g}" for strength in prompt.strengths)
        table.add_row(prompt.edit_id, prompt.text, strengths, str(edits[prompt.edit_id]))
    return table


if __name__ == "__main__":
    typer.run(demo)
