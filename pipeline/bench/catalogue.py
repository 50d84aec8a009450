"""A catalogue of many small photographs, most of which an output holds already, as a nightly job finds it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pipeline.asking import Asking
from pipeline.bench.stand_in import SIDE, StandInEditor
from pipeline.cluster.tables import asked_table
from pipeline.config import JobConfig
from pipeline.io.artifacts import SCHEMAS, Kind, write_table
from pipeline.io.images import encode_png
from pipeline.io.layout import picture_uri
from pipeline.io.outcomes import committed_edits, committed_inversions
from pipeline.io.sources import remembered
from pipeline.io.stamps import stamps
from pipeline.io.tensors import pack, tensor_index
from pipeline.keys import sha256_hex
from pipeline.models.grid import read_grid
from pipeline.planning import Plan, read_plan
from pipeline.stages.fetch import Committed, Fetch
from pipeline.stages.history import History
from pipeline.stages.rows import NOTHING, Asked, Fetched, Payloads, load_orders

CATEGORIES: Final = ("mug", "bottle", "vase", "bowl")
PROMPTS: Final = (
    {"edit_id": "marble", "prompt": "a photo of a {category} on a marble counter"},
    {"edit_id": "beach", "prompt": "a photo of a mug on a sandy beach", "where": {"category": ["mug"]}},
)
# Of the bundled model, which are empty here: what lies beside them in a row group decides how long an index takes.
_ARTIFACT_BYTES: Final = 36_000
# Rows of a file of about 128 MB, up to which `relatent compact` merges.
_FILE_ROWS: Final[Mapping[Kind, int]] = {
    "inversions": (128 << 20) // _ARTIFACT_BYTES,
    "edits": 500_000,
    "sources": 1_000_000,
}
_MOST_LINKS: Final = 50_000  # to one file; ext4 takes 65,000
_DAY: Final = 24 * 3600


def write_catalogue(folder: Path, rows: int, new: int, config: JobConfig) -> JobConfig:
    """Write photographs, manifests and an output that lacks the last `new` of them; the job over them.

    The photographs are links to a few files. Their ids, which name the keys of their pictures, begin with two digits of
    a hash, so that neither folders nor the partitions of an object store fill up one after the other.
    """
    names = [_spread(f"sku-{i:07}") for i in range(rows)]
    _write_photographs(folder / "photographs", names)
    manifest = pa.table(
        {
            "image_id": names,
            "image_uri": [f"photographs/{name}.png" for name in names],
            # No two images have the same key, though they have the same bytes.
            "source_prompt": [f"a photo of {CATEGORIES[i % 4]} {i}" for i in range(rows)],
            "category": [CATEGORIES[i % 4] for i in range(rows)],
        }
    )
    pq.write_table(manifest, folder / "images.parquet", compression="zstd")
    (folder / "prompts.yaml").write_text(yaml.safe_dump(list(PROMPTS)), encoding="utf-8")
    named = {"images": "images.parquet", "prompts": "prompts.yaml", "output": "out"}
    config = config.model_copy(update={name: str(folder / file) for name, file in named.items()})
    _commit(read_plan("run", config), rows - new)
    return config


def _spread(name: str) -> str:
    return f"{sha256_hex(name.encode())[:2]}/{name}"


def _write_photographs(folder: Path, names: Sequence[str]) -> None:
    for prefix in {name.partition("/")[0] for name in names}:
        (folder / prefix).mkdir(parents=True)
    for start in range(0, len(names), _MOST_LINKS):
        original = folder / f"{start}.png"
        pixels = np.full((SIDE, SIDE, 3), start // _MOST_LINKS, np.uint8)
        original.write_bytes(encode_png(pixels, None, None))
        yesterday = original.stat().st_mtime - _DAY
        os.utime(original, (yesterday, yesterday))
        for name in names[start : start + _MOST_LINKS]:
            os.link(original, folder / f"{name}.png")
        original.unlink()


class _Identifying(Fetch):
    """Finds out what each image's keys are, and fetches nothing that an engine would need."""

    def _payloads(self, *_: Any) -> Payloads:
        return NOTHING


def _commit(plan: Plan, rows: int) -> None:
    """Write what a finished job over the first rows, and `relatent compact` after it, would have left."""
    images = plan.images.slice(0, rows)
    _write(plan.output, "sources", _sources(images["image_uri"].to_pylist()))
    committed = Committed(
        committed_inversions(plan.output), committed_edits(plan.output), History(), remembered(plan.output)
    )
    working_size = read_grid(plan.config.model, plan.config.max_side).working_size
    fetch = _Identifying(plan.config, Asking(plan.prompts), plan.fingerprint, committed, working_size)
    edits = []
    for start in range(0, rows, _FILE_ROWS["inversions"]):
        part = asked_table(images.slice(start, _FILE_ROWS["inversions"]), of_artifacts=False)
        fetched = fetch.each(cast("list[Asked]", part.to_pylist()))
        _write(plan.output, "inversions", _inversions(plan, fetched))
        edits.append(_edits(plan, fetched))
    _write(plan.output, "edits", pa.concat_tables(edits))


def _write(output: str, kind: Kind, table: pa.Table) -> None:
    for start in range(0, len(table), _FILE_ROWS[kind]):
        write_table(output, kind, table.slice(start, _FILE_ROWS[kind]))


def _sources(uris: Sequence[str]) -> pa.Table:
    found = stamps(uris)
    sha256_of = {version: _sha256(uri) for uri, version in _one_each(uris, found)}
    return _table(
        "sources",
        {
            "uri": uris,
            "size": [found[uri].size for uri in uris],
            "version": [found[uri].version for uri in uris],
            "sha256": [sha256_of[found[uri].version] for uri in uris],
        },
        {},
    )


def _one_each(uris: Sequence[str], found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A link to each file."""
    one_of = {found[uri].version: uri for uri in uris}
    yield from ((uri, version) for version, uri in one_of.items())


def _sha256(uri: str) -> str:
    return sha256_hex(Path(uri).read_bytes())


def _inversions(plan: Plan, rows: Sequence[Fetched]) -> pa.Table:
    settings = plan.config.inversion
    (stand_in,) = StandInEditor(0.0).invert_rows([np.zeros((1, 1, 3), np.uint8)], [""], settings)
    tensors = pack(stand_in.kept)
    table = _table(
        "inversions",
        {name: [row[name] for row in rows] for name in _OF_IMAGES},
        {
            "model": StandInEditor.model_name,
            "model_fingerprint": plan.fingerprint,
            "method": settings.method,
            "settings": settings.model_dump_json(),
            "width": SIDE,
            "height": SIDE,
            "frames": 1,
            "tensors": tensors + bytes(_ARTIFACT_BYTES - len(tensors)),
            "tensor_index": tensor_index(stand_in.kept),
            "vae_psnr": stand_in.vae_psnr,
            "recon_psnr": stand_in.recon_psnr,
            "iterations": 0,
            "seconds": 0.0,
            "relatent_version": "0",
        },
    )
    return table.append_column("category", _categories(rows)).append_column(
        "mask_uri", pa.nulls(len(rows), pa.string())
    )


_OF_IMAGES: Final = ("inversion_key", "image_id", "image_uri", "image_sha256", "source_prompt")


def _edits(plan: Plan, rows: Sequence[Fetched]) -> pa.Table:
    made = [(row, order) for row in rows for order in load_orders(row["orders"])]
    table = _table(
        "edits",
        {
            "edit_key": [order.key for _, order in made],
            "image_id": [row["image_id"] for row, _ in made],
            "edit_id": [order.edit.edit_id for _, order in made],
            "strength": [order.edit.strength for _, order in made],
            "inversion_key": [row["inversion_key"] for row, _ in made],
            "image_uri": [
                picture_uri(plan.output, row["image_id"], order.edit.edit_id, order.edit.strength)
                for row, order in made
            ],
            "prompt": [order.edit.prompt for _, order in made],
            "source_prompt": [row["source_prompt"] for row, _ in made],
            "sha256": [sha256_hex(order.key.encode()) for _, order in made],
        },
        {"negative_prompt": "", "guidance_scale": 1.5, "word_weights": "{}", "width": SIDE, "height": SIDE},
    )
    return table.append_column("category", _categories([row for row, _ in made]))


def _categories(rows: Sequence[Fetched]) -> pa.Array:
    return pa.array([row["carried"]["category"] for row in rows])


def _table(kind: Kind, values: Mapping[str, Sequence[Any]], constants: Mapping[str, Any]) -> pa.Table:
    """Rows that differ in some columns, and are otherwise the same."""
    length = len(next(iter(values.values())))
    same = {"created_at": datetime.now(UTC), "fence": 1, **constants}
    columns = [
        pa.array(values[field.name], field.type)
        if field.name in values
        else pa.repeat(pa.scalar(same.get(field.name), field.type), length)
        for field in SCHEMAS[kind]
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMAS[kind])
