from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.io.images import decode, encode_png, resize
from pipeline.io.provenance import xmp
from tests.io.pictures import LIMIT, picture


def test_resizing() -> None:
    """Sizes are (width, height); flat areas stay flat, fine stripes average out, and no change is no change."""
    flat = np.full((30, 40, 3), 77, np.uint8)
    assert (resize(flat, (10, 5)) == 77).all()
    assert resize(flat, (10, 5)).shape == (5, 10, 3)
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(resize(stripes, (16, 16))[:, 2:-2].astype(int) - 127).max() <= 2
    assert resize(stripes, (64, 64)) is stripes


@pytest.mark.parametrize("transparent", [False, True])
def test_png_round_trip(transparent: bool) -> None:
    """Pixels and opacity survive; the same picture gives the same bytes."""
    alpha = picture(channels=1)[:, :, 0] if transparent else None
    data = encode_png(picture(), alpha, {"model": "m", "prompt": "ein blauer Krug — 蓝色杯子", "edit_key": "ab"})
    assert data == encode_png(
        picture().copy(), alpha, {"model": "m", "prompt": "ein blauer Krug — 蓝色杯子", "edit_key": "ab"}
    )
    photo = decode(data, LIMIT)
    np.testing.assert_array_equal(photo.pixels, picture())
    if alpha is None:
        assert photo.alpha is None
    else:
        np.testing.assert_array_equal(photo.alpha, alpha)


def test_png_provenance_can_be_read_back() -> None:
    """The XMP packet stands where readers look for it, word for word."""
    provenance = {"model": "m", "prompt": "a <mug> & 蓝色", "edit_key": "ab"}
    with Image.open(io.BytesIO(encode_png(picture(), None, provenance))) as image:
        assert image.info["XML:com.adobe.xmp"] == xmp(provenance)
    with Image.open(io.BytesIO(encode_png(picture(), None, None))) as image:
        assert "XML:com.adobe.xmp" not in image.info
