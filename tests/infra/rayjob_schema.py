"""Make `rayjob-v1.schema.json` from KubeRay's CRD: `python tests/infra/rayjob_schema.py ray.io_rayjobs.yaml`.

Without descriptions and status; pod specs are left to Kubernetes' own schemas.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

SCHEMA = Path(__file__).with_name("rayjob-v1.schema.json")
_COMMENT = (
    "From ray-project/kuberay v1.7.0, ray-operator/config/crd/bases/ray.io_rayjobs.yaml, Apache License 2.0. Changed: "
    "version v1 alone, without descriptions, status and x-kubernetes fields; pod specs are marked x-pod-spec."
)
# What of the CRD is about pods is far larger than all the rest.
_OF_A_POD = {"containers", "initContainers", "volumes"}


def slim(schema: Any) -> Any:
    """A schema without what no check needs."""
    if isinstance(schema, list):
        return [slim(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if (schema.get("properties") or {}).keys() >= _OF_A_POD:
        return {"type": "object", "x-pod-spec": True}
    dropped = {k for k, v in schema.items() if k.startswith("x-kubernetes") or (k == "description" and _is_text(v))}
    return {name: slim(part) for name, part in schema.items() if name not in dropped}


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def main() -> None:
    """Write the schema beside this script."""
    crd = yaml.load(Path(sys.argv[1]).read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    (schema,) = (v["schema"]["openAPIV3Schema"] for v in crd["spec"]["versions"] if v["name"] == "v1")
    slimmed = slim(schema)
    del slimmed["properties"]["status"]
    text = json.dumps({"$comment": _COMMENT, **slimmed}, separators=(",", ":"), sort_keys=True)
    SCHEMA.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
