"""PIE-Bench as its authors publish it (Ju et al., 2024): `mapping_file.json` and `annotation_images/…`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import JobError, RowError
from pipeline.io.images import decode
from pipeline.io.storage import StorageError, join, read_bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """One image and the edit asked of it.

    Attributes:
        kind: the editing type's id, "0" to "9".
        runs: where the edit may be: start and length of each run of pixels, one after the other.
    """

    key: str
    image_uri: str
    source_prompt: str
    prompt: str
    kind: str
    runs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """An entry with its picture (h, w, 3) and its mask (h, w), True where the edit may be."""

    entry: Entry
    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]


def read_mapping(data: str) -> dict[str, Any]:
    """The mapping file of a folder, by key, its entries unchecked.

    Raises:
        JobError: there is none, or it is not a JSON object.
    """
    uri = join(data, "mapping_file.json")
    try:
        mapping = json.loads(read_bytes(uri))
    except (StorageError, ValueError) as error:
        raise JobError(f"piebench {uri}: {error}") from error
    if not isinstance(mapping, dict):
        raise JobError(f"piebench {uri}: expected an object of entries by key; got {type(mapping).__name__}")
    return mapping


def parse_entry(data: str, key: str, item: Any) -> Entry:
    """Check one entry of the mapping file; prompts lose the brackets that mark what changes.

    Raises:
        RowError: row_refused.
    """
    if not isinstance(item, dict):
        raise RowError("row_refused", f"expected an object; got {type(item).__name__}")
    prompt = _text(item, "editing_prompt")
    if not prompt:
        raise RowError("row_refused", "editing_prompt: expected a text; got an empty one")
    path = _text(item, "image_path")
    # The file is somebody else's: it may name what is below its own folder only.
    if not path or "://" in path or ".." in path.split("/"):
        raise RowError("row_refused", f"image_path: expected a path below annotation_images; got {path!r}")
    return Entry(
        key=key,
        image_uri=join(data, "annotation_images", path),
        source_prompt=_text(item, "original_prompt"),
        prompt=prompt,
        kind=str(item.get("editing_type_id", "")),
        runs=_runs(item.get("mask")),
    )


def load_case(entry: Entry, max_pixels: int) -> Case:
    """Read an entry's picture and decode its mask.

    Raises:
        RowError: image_missing, storage_unavailable, one of `decode`'s, or mask_not_decodable.
    """
    try:
        data = read_bytes(entry.image_uri)
    except StorageError as error:
        raise RowError("image_missing" if error.missing else "storage_unavailable", str(error)) from error
    image = decode(data, max_pixels).pixels
    return Case(entry, image, decode_mask(entry.runs, (image.shape[0], image.shape[1])))


def decode_mask(runs: Sequence[int], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Runs of start and length over the rows of an image of `shape` (h, w) → where the edit may be.

    As the published `mask_decode`: a run that leaves the image ends with it, and the image's outermost pixels belong
    to the mask, since annotations are unreliable there.

    Raises:
        RowError: mask_not_decodable, for a run that starts behind the image: its mask is of another size.
    """
    mask = np.zeros(shape[0] * shape[1], dtype=bool)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        if start > mask.size:
            got = f"a run that starts at {start}"
            raise RowError("mask_not_decodable", f"mask: expected runs over {shape[1]}×{shape[0]} pixels; got {got}")
        mask[start : start + length] = True
    mask = mask.reshape(shape)
    mask[[0, -1], :] = True
    mask[:, [0, -1]] = True
    return mask


def _text(item: dict[str, Any], name: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise RowError("row_refused", f"{name}: expected a text; got {value!r}")
    return value.replace("[", "").replace("]", "").strip() if name.endswith("prompt") else value


def _runs(value: Any) -> tuple[int, ...]:
    # bool is an int to Python, and no position.
    if not isinstance(value, list) or any(type(number) is not int or number < 0 for number in value):
        raise RowError("mask_not_decodable", f"mask: expected a list of starts and lengths; got {str(value)[:60]}")
    if len(value) % 2:
        raise RowError("mask_not_decodable", f"mask: expected pairs of start and length; got {len(value)} numbers")
    return tuple(value)
