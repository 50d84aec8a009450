"""One picture of a whole job: a row per photograph, with its reconstruction and its edits."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from pipeline.io.images import decode
from pipeline.io.layout import picture_uri
from pipeline.io.outcomes import committed_inversions, read_inversion
from pipeline.io.reuse import inverted_images
from pipeline.io.storage import StorageError, read_bytes
from pipeline.io.tensors import unpack
from pipeline.models.backbone import Backbone
from pipeline.pixels import Pixels, as_levels
from pipeline.records import PromptRow

_CELL: Final = 112
_GAP: Final = 4
_LABEL: Final = 14
_PAPER: Final = (255, 255, 255)
_INK: Final = (40, 40, 40)
_MAX_PIXELS: Final = 100_000_000


def contact_sheet(output: str, prompts: Sequence[PromptRow], model: Backbone) -> bytes:
    """Draw the sheet of an output that lies in one piece: PNG, original | reconstruction | edits.

    Edits that an image was not asked for, or that failed, leave a gap.
    """
    images = sorted(inverted_images(output, model.fingerprint).to_pylist(), key=lambda row: str(row["image_id"]))
    columns = [(prompt.edit_id, strength) for prompt in prompts for strength in prompt.strengths]
    labels = ["original", "reconstruction", *(f"{edit_id} {strength:g}" for edit_id, strength in columns)]
    index = committed_inversions(output)
    cells = [
        [
            decode(read_bytes(row["image_uri"]), _MAX_PIXELS).pixels,
            reconstruction(read_inversion(index, row["inversion_key"])["tensors"], model),
            *(_picture(picture_uri(output, row["image_id"], *column)) for column in columns),
        ]
        for row in images
    ]
    return draw_sheet(labels, cells)


def reconstruction(tensors: bytes, model: Backbone) -> Pixels:
    """What the model makes of an artifact without any edit, at its working size."""
    pixels = model.decode_latents(unpack(tensors)["reconstruction"][None].float())[0].cpu()
    return as_levels(pixels.permute(1, 2, 0).numpy())


def _picture(uri: str) -> Pixels | None:
    try:
        return decode(read_bytes(uri), _MAX_PIXELS).pixels
    except StorageError as error:
        if error.missing:
            return None
        raise


def draw_sheet(
    labels: Sequence[str],
    cells: Sequence[Sequence[Pixels | None]],
    captions: Sequence[Sequence[str]] | None = None,
) -> bytes:
    """Draw pictures uint8 (h, w, 3) in rows under their columns' labels, with a caption below each if given: PNG."""
    pitch, row_pitch = _CELL + _GAP, _CELL + _GAP + (_LABEL if captions else 0)
    sheet = Image.new("RGB", (_GAP + pitch * len(labels), _GAP + _LABEL + row_pitch * len(cells)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=11)
    for column, label in enumerate(labels):
        draw.text((_GAP + column * pitch, _GAP), label, fill=_INK, font=font)
    for row, pictures in enumerate(cells):
        top = _GAP + _LABEL + row * row_pitch
        for column, pixels in enumerate(pictures):
            left = _GAP + column * pitch
            if pixels is not None:
                sheet.paste(_fitted(pixels), (left, top))
            if captions:
                draw.text((left, top + _CELL), captions[row][column], fill=_INK, font=font)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _fitted(pixels: Pixels) -> Image.Image:
    picture = Image.fromarray(pixels)
    scale = _CELL / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)
