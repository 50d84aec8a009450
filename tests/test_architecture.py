"""The arrows of the architecture: who may import whom, held by walking every import in the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent

LEAVES: Final = {"errors", "events", "records", "keys", "memory", "settings", "config", "words", "pixels"}

# Part → the parts of ours that it may import. A part is a module or package in pipeline/, or jobs; every part may
# import itself and the leaves, and only jobs may import jobs.
ARROWS: Final[dict[str, set[str]]] = {
    "jobs": {
        "asking",
        "bench",
        "cluster",
        "counts",
        "demo",
        "editor",
        "estimate",
        "io",
        "models",
        "perceptual",
        "planning",
        "quality",
        "report",
        "upkeep",
    },
    "bench": {
        "inversion",
        "synthesis",
        "cluster",
        "stages",
        "planning",
        "asking",
        "counts",
        "io",
        "models",
        "diffusion",
        "quality",
    },
    "cluster": {"stages", "planning", "asking", "counts", "io", "models"},
    "stages": {"asking", "composite", "counts", "editor", "inversion", "synthesis", "perceptual", "io", "diffusion"},
    "upkeep": {"planning", "asking", "stages", "io"},
    "planning": {"asking", "counts", "io", "models"},
    "asking": {"io"},
    "counts": set(),
    "estimate": {"cost", "planning", "io"},
    "cost": set(),
    "composite": set(),
    "editor": {"composite", "inversion", "synthesis", "models", "diffusion", "io"},
    "inversion": {"methods", "models", "diffusion"},
    "synthesis": {"inversion", "methods", "models", "diffusion"},
    "perceptual": {"models"},
    "methods": {"diffusion"},
    "models": {"diffusion", "io"},
    "diffusion": set(),
    "io": set(),
    "quality": {"editor", "inversion", "synthesis", "perceptual", "methods", "models", "diffusion", "io", "demo"},
    "report": {"io"},
    "demo": {"models", "io"},
    "pipeline": {"editor"},  # the package's own __init__, which names the Python API
    **{leaf: set() for leaf in LEAVES},
}

# Library → the only parts that may import it.
IMPORTERS: Final[dict[str, set[str]]] = {
    "ray": {"bench", "cluster"},
    "diffusers": {"models"},
    "transformers": {"models"},
    "huggingface_hub": {"models"},
    "fsspec": {"io"},
    "s3fs": {"io"},
    "pyarrow": {"bench", "cluster", "io"},
    "PIL": {"composite", "io", "demo"},
    "matplotlib": {"bench", "demo", "quality"},
    "typer": {"jobs"},
    "rich": {"jobs"},
}

# Part → the only libraries that it may import, beside Python's own.
LIBRARIES: Final[dict[str, set[str]]] = {
    "diffusion": {"torch", "numpy"},
    "methods": {"torch"},
    "composite": {"numpy", "PIL"},
    "pixels": {"numpy"},
    "jobs": {"typer", "rich", "yaml", "pydantic"},
    "errors": set(),
    "events": set(),
    "keys": set(),
    "records": {"pydantic"},
    "settings": {"pydantic"},
    "config": {"pydantic"},
    "words": set(),
}


def _sources() -> list[Path]:
    return sorted(p for package in ("pipeline", "jobs") for p in (ROOT / package).rglob("*.py"))


def _part(module: str) -> str:
    """`pipeline.io.images` → io; `jobs.run` → jobs; `pipeline` → pipeline."""
    top, *rest = module.split(".")
    return rest[0] if top == "pipeline" and rest else top


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and module of every import, wherever in the file it stands; `from pipeline import io` is pipeline.io."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            assert node.module is not None
            if node.module == "pipeline":
                yield from ((node.lineno, f"pipeline.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module


def _violations(path: Path) -> Iterator[str]:
    part = _part(_module(path))
    for line, imported in _imports(path):
        where = f"{path.relative_to(ROOT)}:{line}: {part} imports {imported}"
        top = imported.split(".")[0]
        if top in {"pipeline", "jobs"}:
            target = _part(imported)
            if target not in {part, *LEAVES, *ARROWS.get(part, set())}:
                yield f"{where}; it may import {', '.join(sorted(ARROWS.get(part, set()) | LEAVES))}"
        elif part not in IMPORTERS.get(top, {part}):
            yield f"{where}; only {', '.join(sorted(IMPORTERS[top]))} may"
        elif part in LIBRARIES and top not in LIBRARIES[part] | sys.stdlib_module_names:
            yield f"{where}; it may use {', '.join(sorted(LIBRARIES[part])) or 'the standard library alone'}"


def test_every_part_has_its_arrows() -> None:
    """A new module or package in pipeline/ takes its place in the table."""
    assert {_part(_module(path)) for path in _sources()} <= ARROWS.keys()


def test_arrows_have_no_cycle() -> None:
    """Following the arrows never leads back."""
    following, done = set[str](), set[str]()

    def follow(part: str) -> None:
        assert part not in following, f"a cycle through {part}"
        if part not in done:
            following.add(part)
            for target in ARROWS[part]:
                follow(target)
            following.remove(part)
            done.add(part)

    for part in ARROWS:
        follow(part)


@pytest.mark.parametrize("path", _sources(), ids=_module)
def test_imports_follow_the_arrows(path: Path) -> None:
    """A module imports only what the tables above allow its part."""
    assert list(_violations(path)) == []


def test_the_engine_runs_without_ray() -> None:
    """Where ray cannot be imported, everything but the cluster and the commands can."""
    modules = [m for m in map(_module, _sources()) if _part(m) not in {"bench", "cluster", "jobs"}]
    code = "import sys, importlib; sys.modules['ray'] = None\nfor m in sys.argv[1:]: importlib.import_module(m)"
    done = subprocess.run([sys.executable, "-c", code, *modules], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_fetching_and_publishing_import_no_torch() -> None:
    """There are several such processes on each node, in which it would take seconds to import, and memory."""
    code = "import sys; sys.modules['torch'] = None\nimport pipeline.stages.fetch, pipeline.stages.publish"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
