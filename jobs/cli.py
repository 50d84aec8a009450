"""The command line `relatent`."""

from __future__ import annotations

import typer

from jobs.bench import bench
from jobs.compact import compact
from jobs.demo import demo
from jobs.edit import edit
from jobs.invert import invert
from jobs.plan import plan
from jobs.prune import prune
from jobs.retry import retry
from jobs.run import run
from jobs.status import status

relatent = typer.Typer(
    name="relatent",
    help="Edit a whole catalogue of photographs with text: invert each once, restyle it for ever.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
for _command in (plan, run, invert, edit, retry, status, prune, compact, demo):
    relatent.command()(_command)
relatent.add_typer(bench, name="bench")


def main() -> None:
    """Entry point of the console script."""
    relatent()


if __name__ == "__main__":
    main()
