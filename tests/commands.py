"""The commands as a shell runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent


def command(name: str, *words: str) -> list[str]:
    """A command as a RayJob's entrypoint names it."""
    return [sys.executable, "-m", f"jobs.{name}", *words]


def call(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(command(name, *words), cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
