"""The rows that travel between stages: simple columns only, so that any executor can move them as Arrow.

Lists of small values travel as JSON text, arrays as safetensors payloads, pictures as their encoded bytes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NotRequired, TypedDict

from pipeline.counts import Counts
from pipeline.io.sources import Seen
from pipeline.records import Edit, Failure


class ImageColumns(TypedDict):
    """What every row says of its image; `carried` has the user's own columns, where there are any."""

    image_id: str
    image_uri: str
    source_prompt: str | None
    mask_uri: str | None
    carried: NotRequired[dict[str, Any]]


class Asked(ImageColumns):
    """One row of the plan. The last three are known where an artifact is what is asked about."""

    image_sha256: NotRequired[str]
    inversion_key: NotRequired[str]
    fitted_scale: NotRequired[float | None]


class Payloads(TypedDict):
    """What the engine needs of an image that has work left."""

    original: bytes | None  # the encoded photograph, for compositing
    pixels: bytes | None  # safetensors: the photograph at the working size (h, w, 3), where it is to be inverted
    mask: bytes | None  # safetensors: the mask at the working size (h, w)
    frames: int | None  # pictures that the file of the photograph holds; the first is used
    artifact: str | None  # JSON: the committed inversion's columns, without its tensors
    tensors: bytes | None


class Fetched(ImageColumns, Payloads):
    """One image after fetching: everything the engine needs, or why there is nothing to do."""

    status: Literal["work", "done", "failed"]
    image_sha256: str
    inversion_key: str
    named: bool  # whether a row among the artifacts has this image's id
    orders: str  # JSON: [Order]
    reused: int  # images without work whose artifact was already committed; a row may stand for several
    kept: int  # edits that were already committed
    failures: str  # JSON: [FailedRow]
    seen: str  # JSON: [Seen], files that were read and are to be remembered


class Made(ImageColumns):
    """A part of one image's results: its inversion, or some of its edits. Failures may come with either."""

    image_sha256: str
    inversion_key: str
    model: str
    original: bytes | None
    inversion: str | None  # JSON: the columns of the inversion, without its tensors
    tensors: bytes | None  # the inversion's tensors, where a row is to be committed
    orders: str  # JSON: [Order], the edits that were made
    # Arrays: edited (n, h, w, 3) and mask (n, h, w), in orders' order; reconstruction (h, w, 3), of all of them.
    pictures: bytes | None
    truncated: str  # JSON: for each order whether its prompt was too long for the model
    seconds: float  # per edit
    reused: int
    kept: int
    failures: str  # JSON: [FailedRow]
    seen: str  # JSON: [Seen]


@dataclass(frozen=True, slots=True)
class Order:
    """One edit to be made, its identity, and the seed of its noise where it draws any.

    `replaces` says that its picture takes the place of another edit's.
    """

    edit: Edit
    key: str
    seed: int | None
    replaces: bool = False


@dataclass(frozen=True, slots=True)
class FailedRow:
    """A failure, the identity of what was tried, and how many edits it costs.

    `tried` is the key or sha256 of everything the failed step was given, where that was known: a
    permanent failure stands for as long as it is unchanged.
    """

    failure: Failure
    image_uri: str
    tried: str | None
    edits: int


NOTHING: Final = Payloads(original=None, pixels=None, mask=None, frames=None, artifact=None, tensors=None)


def image_columns(row: ImageColumns) -> ImageColumns:
    """The part of a row that describes its image."""
    columns = ImageColumns(
        image_id=row["image_id"],
        image_uri=row["image_uri"],
        source_prompt=row["source_prompt"],
        mask_uri=row["mask_uri"],
    )
    if "carried" in row:
        columns["carried"] = row["carried"]
    return columns


def name_of(row: Made) -> str:
    """What tells a part from all others of its job."""
    return f"{row['image_id']} {row['orders']}"


def dump(values: Sequence[Order] | Sequence[FailedRow] | Sequence[Seen] | Counts) -> str:
    """Records as JSON."""
    if not values:  # as most are
        return "[]"
    return json.dumps(values, default=dataclasses.asdict)


def load_orders(text: str) -> list[Order]:
    """Read orders back."""
    return [Order(edit=_edit(order.pop("edit")), **order) for order in json.loads(text)]


def _edit(values: dict[str, Any]) -> Edit:
    return Edit(**{**values, "deltas": tuple((prompt, strength) for prompt, strength in values["deltas"])})


def load_failures(text: str) -> list[FailedRow]:
    """Read failures back."""
    return [FailedRow(failure=Failure(**row.pop("failure")), **row) for row in json.loads(text)]


def load_seen(text: str) -> list[Seen]:
    """Read back what is to be remembered."""
    return [Seen(**row) for row in json.loads(text)]


def load_counts(text: str) -> Counts:
    """Read counts back."""
    return Counts(**json.loads(text))


def passed_on(row: Fetched, *, reused: int = 0, failures: Sequence[FailedRow] = ()) -> Made:
    """A part without results of its own: what the fetch stage found, and failures since."""
    return Made(
        **image_columns(row),
        image_sha256=row["image_sha256"],
        inversion_key=row["inversion_key"],
        model="",
        original=None,
        inversion=None,
        tensors=None,
        orders="[]",
        pictures=None,
        truncated="[]",
        seconds=0.0,
        reused=row["reused"] + reused,
        kept=row["kept"],
        failures=dump([*load_failures(row["failures"]), *failures]),
        seen=row["seen"],
    )
