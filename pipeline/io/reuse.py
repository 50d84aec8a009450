"""The images of an earlier output's artifacts: what `edit` works from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import JobError
from pipeline.io.artifacts import INVERSION_SCHEMA, users_name
from pipeline.io.image_manifest import ImageManifest
from pipeline.io.rows_read import newest, read_as, read_files
from pipeline.io.uris import UriRefusedError, canonical, check_allowed
from pipeline.io.validation import InvalidRowError, check_id
from pipeline.records import Refusal

_KEPT: Final = ("image_id", "image_uri", "source_prompt", "image_sha256", "inversion_key")
_WITHOUT_TENSORS: Final = pa.schema([field for field in INVERSION_SCHEMA if field.name != "tensors"])


def inverted_images(output: str, model_fingerprint: str) -> pa.Table:
    """The images that one model has inverted: for each id its newest artifact.

    Returns:
        image_id, image_uri, source_prompt, mask_uri, image_sha256, inversion_key, fitted_scale (the guidance it was
        inverted at), then the user's columns.

    Raises:
        JobError: there are no artifacts, or none of this model, or their carried columns do not go together.
        StorageError: a file is not readable as artifacts.
    """
    files, tables = read_files(
        output, "inversions", lambda uri: read_as(uri, "inversions", _WITHOUT_TENSORS, _without_tensors)
    )
    if not files:
        raise JobError(f"inversions {output}: expected inversions/*.parquet; got none")
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise JobError(f"inversions {output}: expected carried columns of one type in all files; {error}") from error
    ours = table.filter(pc.equal(table["model_fingerprint"], model_fingerprint))
    if not len(ours):
        found = ", ".join(sorted({f"{name} ({fp[:12]}…)" for name, fp in _models(table)}))
        raise JobError(f"inversions {output}: expected artifacts of model {model_fingerprint[:12]}…; got {found}")
    return _columns(ours.take(newest(ours, "inversions", ["image_id"])))


def checked_again(images: pa.Table, output: str, allow: Sequence[str]) -> ImageManifest:
    """Hold the images of an output to what a manifest's rows are held to: who wrote it need not be this project.

    Its originals may be anywhere that the job allows, whatever storage the output is on: an original is read only to
    composite, and only if its sha256 is the artifact's.
    """
    prefixes = tuple(map(canonical, allow))
    refused = {}
    for at, (image_id, image_uri) in enumerate(zip(*map(images.column, ("image_id", "image_uri")), strict=True)):
        try:
            check_id("image_id", image_id.as_py(), folders=True)
            check_allowed(image_uri.as_py(), canonical(image_uri.as_py()), prefixes)
        except (InvalidRowError, UriRefusedError) as error:
            refused[at] = Refusal(output, at + 1, str(error), image_id.as_py())
    kept = [at for at in range(len(images)) if at not in refused]
    return ImageManifest(images.take(pa.array(kept, pa.int64())), tuple(refused.values()))


def _models(table: pa.Table) -> Iterator[tuple[str, str]]:
    yield from zip(table["model"].to_pylist(), table["model_fingerprint"].to_pylist(), strict=True)


def _without_tensors(file: BinaryIO) -> pa.Table:
    with pq.ParquetFile(file, pre_buffer=True) as parquet:
        return parquet.read(columns=[name for name in parquet.schema_arrow.names if name != "tensors"])


def _columns(table: pa.Table) -> pa.Table:
    own = [name for name in table.column_names if name not in INVERSION_SCHEMA.names and name != "mask_uri"]
    mask = table["mask_uri"] if "mask_uri" in table.column_names else pa.nulls(len(table), pa.string())
    fitted = [_fitted_scale(settings) for settings in table["settings"].to_pylist()]
    kept = table.select(list(_KEPT)).add_column(3, "mask_uri", mask)
    kept = kept.append_column("fitted_scale", pa.array(fitted, pa.float64()))
    for name in own:
        kept = kept.append_column(users_name(name), table[name])
    return kept


def _fitted_scale(settings: str | None) -> float | None:
    """The guidance that settings name; None where they cannot be read, which costs their row once its turn comes."""
    try:
        return float(json.loads(settings or "")["guidance_scale"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
