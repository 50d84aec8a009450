"""Leave in a bill of materials what the image ships: this project with its `cluster` extra, and whatever these need.

`cyclonedx-py environment … | python infra/sbom.py > sbom.json`, by the Python of the environment that it describes.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import PackageNotFoundError, requires
from typing import Any, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

SHIPPED: Final = "relatent[cluster]"  # as infra/Dockerfile installs it


def needed(requirement: str) -> set[str]:
    """The names of a distribution, and of all that it needs on this machine, its extras counted.

    Raises:
        PackageNotFoundError: one of them is not installed.
    """
    found: set[tuple[str, str]] = set()
    waiting = [Requirement(requirement)]
    while waiting:
        asked = waiting.pop()
        name = canonicalize_name(asked.name)
        for extra in {"", *asked.extras} - {extra for known, extra in found if known == name}:
            found.add((name, extra))
            needs = map(Requirement, requires(name) or ())
            waiting.extend(one for one in needs if one.marker is None or one.marker.evaluate({"extra": extra}))
    return {name for name, _ in found}


def left(bill: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """A CycloneDX bill of materials with the components of these names, and what they depend on of each other."""
    components = [one for one in bill["components"] if canonicalize_name(one["name"]) in names]
    refs = {one["bom-ref"] for one in (*components, bill["metadata"].get("component", {"bom-ref": None}))}
    depends = [
        {**one, **({"dependsOn": [ref for ref in one["dependsOn"] if ref in refs]} if "dependsOn" in one else {})}
        for one in bill["dependencies"]
        if one["ref"] in refs
    ]
    return {**bill, "components": components, "dependencies": depends}


def main() -> None:
    """Standard input to standard output."""
    try:
        names = needed(SHIPPED)
    except PackageNotFoundError as error:
        sys.exit(f"error: expected an environment with {SHIPPED}; {error.name} is not installed")
    json.dump(left(json.load(sys.stdin), names), sys.stdout, indent=2)


if __name__ == "__main__":
    main()
