"""Fuzz the decoders from the command line; exit code 1 if anything crashed, hung or raised what it should not."""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from pathlib import Path

from tests.fuzz.harness import Outcome
from tests.fuzz.run import FORMATS, file_of, fuzz, is_finding


def main() -> int:
    """Run, print a table of outcomes by format, and keep the files that were found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--files", type=int, default=10_000, help="how many mutated files (default: 10000)")
    parser.add_argument("--seed", type=int, default=1, help="another seed makes other files (default: 1)")
    parser.add_argument("--seconds", type=float, default=20.0, help="limit per file (default: 20)")
    parser.add_argument("--megabytes", type=int, default=4096, help="address space of the decoder (default: 4096)")
    parser.add_argument("--keep", type=Path, default=Path("out/fuzz"), help="where found files go (default: out/fuzz)")
    options = parser.parse_args()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    every: list[Outcome] = []
    findings = 0
    results = fuzz(options.files, options.seed, options.seconds, options.megabytes)
    for index, (format_, outcome) in enumerate(results):
        every.append(outcome)
        counts[format_][outcome.result.split(":")[0]] += 1
        if is_finding(outcome):
            findings += 1
            options.keep.mkdir(parents=True, exist_ok=True)
            name = options.keep / f"{options.seed}-{index}.{format_.lower()}"
            name.write_bytes(file_of(options.seed, index))
            print(f"{name}: {outcome.result}", file=sys.stderr)
    _print(counts)
    slowest, peak = max(o.ms for o in every), max(o.peak_mb for o in every)
    print(f"{len(every)} files, seed {options.seed}: {findings} findings; slowest {slowest:.0f} ms, peak {peak:.0f} MB")
    return 1 if findings else 0


def _print(counts: dict[str, Counter[str]]) -> None:
    columns = sorted(set().union(*counts.values()))
    print("format", "files", *columns, sep=" | ")
    for format_ in FORMATS:
        row = counts[format_]
        print(format_, row.total(), *(row[name] for name in columns), sep=" | ")


if __name__ == "__main__":
    sys.exit(main())
