from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipeline.io.manifest import check_plan, edits_for, read_images, read_prompts
from pipeline.io.schemas import schema_texts, write_schemas

MANIFESTS = Path(__file__).parents[2] / "manifests"
EXAMPLES = [("local/images.csv", "local/prompts.yaml"), ("s3/images.jsonl", "s3/prompts.jsonl")]


def test_kept_schemas_are_the_generated_ones() -> None:
    """The schemas in the repository are what the code says, and no others lie beside them."""
    kept = {path.name: path.read_text(encoding="utf-8") for path in (MANIFESTS / "schema").iterdir()}
    assert kept == schema_texts(), "run: python -m pipeline.io.schemas manifests/schema"


def test_schemas_are_written(tmp_path: Path) -> None:
    """The command that brings the kept schemas up to date writes exactly them."""
    write_schemas(tmp_path / "schema")
    assert {p.name: p.read_text(encoding="utf-8") for p in (tmp_path / "schema").iterdir()} == schema_texts()


@pytest.mark.parametrize(("images", "prompts"), EXAMPLES)
def test_examples_are_valid(images: str, prompts: str) -> None:
    """Every row of the example manifests is accepted, fits the others, and gives edits."""
    image_manifest, prompt_manifest = read_images(str(MANIFESTS / images)), read_prompts(str(MANIFESTS / prompts))
    assert image_manifest.refusals == prompt_manifest.refusals == check_plan(image_manifest, prompt_manifest) == ()
    rows = image_manifest.table.to_pylist()
    for prompt in prompt_manifest.rows:
        assert any(edits_for(row, [prompt]) for row in rows), prompt.edit_id


@pytest.mark.parametrize(("images", "prompts"), EXAMPLES)
def test_examples_fit_the_schemas(images: str, prompts: str) -> None:
    """What our reader accepts, a JSON Schema validator accepts."""
    schemas = {name: json.loads(text) for name, text in schema_texts().items()}
    for row in read_images(str(MANIFESTS / images)).table.to_pylist():
        jsonschema.validate(row, schemas["images.schema.json"])
    for row in _rows(MANIFESTS / prompts):
        jsonschema.validate(row, schemas["prompts.schema.json"])


def _rows(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    return list(yaml.safe_load(text)) if path.suffix == ".yaml" else [json.loads(line) for line in text.splitlines()]


def test_schemas_refuse_unknown_prompt_columns() -> None:
    """A misspelt column is refused by the schema as by the reader; images may have any further columns."""
    schemas = {name: json.loads(text) for name, text in schema_texts().items()}
    with pytest.raises(jsonschema.ValidationError, match="promt"):
        jsonschema.validate({"edit_id": "a", "prompt": "x", "promt": "y"}, schemas["prompts.schema.json"])
    for row in ({"edit_id": "a"}, {"edit_id": "a", "prompt": "x", "edits": [{"prompt": "y"}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(row, schemas["prompts.schema.json"])
    jsonschema.validate({"edit_id": "a", "edits": [{"prompt": "y"}]}, schemas["prompts.schema.json"])
    jsonschema.validate({"image_id": "a", "image_uri": "a.png", "sku": 3}, schemas["images.schema.json"])
