"""The command line `relatent`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperGroup

# Each is in the module of its name, which is imported when it is asked for, and not to list it.
COMMANDS: Final[Mapping[str, str]] = {
    "plan": "Say what `run` would do: counts, refused rows, bytes, time, cost. Runs nothing.",
    "run": "Invert what has no artifact, edit what has no output.",
    "invert": "Make artifacts only: invert what has none.",
    "edit": "Edit from the artifacts of an earlier output; never inverts.",
    "retry": "Give an output's last command again: what failed and may pass is tried once more, what is missing is "
    "done.",
    "status": "Say how far an output is, how fast it went, and what failed.",
    "prune": "Remove what the manifests of an output's last job no longer name, and what killed runs left behind.",
    "compact": "Merge the many small Parquet files of an output's tables into few of about 128 MB.",
    "demo": "Restyle the bundled catalogue with the bundled model; no network, no GPU.",
    "bench": "Measure quality and speed on the catalogue's held-out scenes.",
}


class _Imported(TyperGroup):
    """Commands that come from their modules once one of them is to run."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, _, rest = super().resolve_command(ctx, args)
        return name, name and imported(name), rest


def imported(name: str) -> Any:
    """The command of this name, with its options."""
    command = getattr(import_module(f"jobs.{name}"), name)
    if not isinstance(command, typer.Typer):
        function, command = command, typer.Typer(add_completion=False)
        command.command()(function)
    return typer.main.get_command(command)


relatent = typer.Typer(
    name="relatent",
    help="Edit a whole catalogue of photographs with text: invert each once, restyle it for ever.",
    cls=_Imported,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
for _name, _summary in COMMANDS.items():
    relatent.command(_name, help=_summary)(lambda: None)


def main() -> None:
    """Entry point of the console script."""
    relatent()


if __name__ == "__main__":
    main()
