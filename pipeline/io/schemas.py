"""JSON Schemas of the manifests' rows, generated from the models that check them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from pipeline.records import ImageRow, PromptRow

_MODELS: Final[dict[str, type[BaseModel]]] = {"images": ImageRow, "prompts": PromptRow}


def schema_texts() -> dict[str, str]:
    """File name → JSON Schema of one row, as it is kept in `manifests/schema`."""
    return {f"{name}.schema.json": _text(model) for name, model in _MODELS.items()}


def _text(model: type[BaseModel]) -> str:
    schema: dict[str, Any] = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def write_schemas(folder: Path) -> None:
    """Write all schemas; `python -m pipeline.io.schemas manifests/schema` brings the kept ones up to date."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in schema_texts().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_schemas(Path(sys.argv[1]))
