"""Fill in a template of this folder: `python infra/render.py kuberay/nightly.yaml values.yaml | kubectl apply -f -`.

Templates are plain files with `${name}` (a dollar sign of their own is `$$`); a values file says what the names mean.
`values.yaml` beside this script has all of them.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Final

import yaml

HERE: Final = Path(__file__).parent
# Values stand in YAML, JSON and one shell command: whatever could end a word or a string there is refused.
_PLAIN: Final = re.compile(r"(?!.*: )[\w.,:/@*?=+ -]*", re.ASCII)


def render(template: str, values: Mapping[str, object]) -> str:
    """A template with its values filled in.

    Two are no values: `${rayjob}`, the rendered RayJob, indented, and `${max_workers}`, the sum of all groups'.

    Raises:
        ValueError: the template names a value that there is not, or a value has characters that it must not.
    """
    for name, value in values.items():
        if not _PLAIN.fullmatch(str(value)):
            raise ValueError(f"{name}: expected letters, digits and . , : / @ * ? = + - only; got {str(value)!r}")
    filled = dict(values)
    if template == "kuberay/nightly.yaml":
        filled["rayjob"] = textwrap.indent(render("kuberay/rayjob.yaml", values), "    ").strip()
    try:
        if template == "aws/cluster.yaml":
            filled["max_workers"] = sum(int(str(values[f"{group}_workers"])) for group in ("cpu", "gpu", "spot"))
        return Template((HERE / template).read_text(encoding="utf-8")).substitute(filled)
    except KeyError as error:
        raise ValueError(f"{template}: no value for {error.args[0]}") from error


def main() -> None:
    """Print a rendered template; a values file of one's own is laid over the one that stands here."""
    template, *own = sys.argv[1:]
    values: dict[str, object] = {}
    for file in (HERE / "values.yaml", *map(Path, own)):
        values |= yaml.safe_load(file.read_text(encoding="utf-8"))
    try:
        sys.stdout.write(render(template, values))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
