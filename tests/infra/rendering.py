"""The templates of infra/, rendered as a person renders them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.commands import ROOT


def render(template: str, values: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the script over a template, and a values file of one's own."""
    words = [sys.executable, "infra/render.py", template, *([str(values)] if values else [])]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)


def documents(template: str, folder: Path, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The YAML documents of a template, rendered with these values over the given ones."""
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(dict(values)), encoding="utf-8")
    done = render(template, file)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))
