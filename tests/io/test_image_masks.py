from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import RowError
from pipeline.io.images import check_mask_shape, decode, decode_mask
from tests.io.pictures import LIMIT, encoded, picture, smooth


def test_masks_are_one_channel() -> None:
    """A mask is its brightness, upright; what is transparent may not change."""
    grey = picture(channels=1)[:, :, 0]
    exif = Image.Exif()
    exif[0x0112] = 3
    np.testing.assert_array_equal(
        decode_mask(encoded(Image.fromarray(grey), "PNG", exif=exif), LIMIT), grey[::-1, ::-1]
    )
    rgba = np.full((2, 2, 4), 255, np.uint8)
    rgba[0, 0, 3] = 0
    assert decode_mask(encoded(Image.fromarray(rgba), "PNG"), LIMIT).tolist() == [[0, 255], [255, 255]]


@pytest.mark.parametrize(
    "data", [b"text", encoded(smooth(), "PNG")[:100], encoded(Image.new("L", (2000, 2000)), "PNG")]
)
def test_masks_that_cannot_be_read(data: bytes) -> None:
    """A mask that is no picture, is truncated or is too large has one code of its own."""
    with pytest.raises(RowError) as raised:
        decode_mask(data, LIMIT)
    assert raised.value.code == "mask_not_decodable"


def test_mask_shapes() -> None:
    """A mask may be smaller, not of another shape."""
    photo = decode(encoded(Image.new("RGB", (300, 200)), "PNG"), LIMIT)
    check_mask_shape(np.zeros((100, 150), np.uint8), photo)
    check_mask_shape(np.zeros((100, 152), np.uint8), photo)
    with pytest.raises(RowError) as raised:
        check_mask_shape(np.zeros((150, 100), np.uint8), photo)
    assert raised.value.code == "mask_wrong_shape"
