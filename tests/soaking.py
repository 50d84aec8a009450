"""What the parts of `make soak` share: a seed that can be given again, and lines with the time."""

from __future__ import annotations

import argparse
import random
import time


def options_of(description: str, name: str, default: float) -> argparse.Namespace:
    """The options of one part: a number of its own, of its default's type, and `seed`, which is told."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args()
    say(f"seed {options.seed}")
    return options


def say(line: str) -> None:
    """Print a line with the time."""
    print(f"[{time.strftime('%H:%M:%S')}] {line}", flush=True)  # noqa: T201
