"""Edits put into photographs of another size: what they change there, and what stays."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline import composite as compositing
from pipeline.composite import composite
from pipeline.pixels import Pixels, as_levels

EVERYWHERE = np.ones((16, 16), np.float32)
_Values = NDArray[np.float32]


def _random(seed: int, *shape: int) -> _Values:
    return np.random.default_rng(seed).random(shape, np.float32)


def _grey(value: float, *size: int) -> _Values:
    return np.full((*size, 3), value, np.float32)


def _enlarged(picture: _Values, height: int, width: int) -> _Values:
    """As torch does it: the reference."""
    planes = torch.from_numpy(picture).permute(2, 0, 1)[None]
    larger = torch.nn.functional.interpolate(planes, (height, width), mode="bilinear", antialias=True)[0]
    return larger.permute(1, 2, 0).numpy()


def test_an_edit_replaces_content_without_ghosts() -> None:
    """Where an edit departs far, none of the original's detail shows through."""
    original = as_levels(_random(8, 64, 64, 3))
    result = composite(original, _grey(1, 32, 32), _grey(0, 32, 32), np.ones((32, 32), np.float32))
    assert (result == 255).all()


def test_a_small_recolouring_keeps_the_originals_detail() -> None:
    """Where an edit stays close, fine texture that the model never saw survives."""
    original = as_levels(0.5 + 0.05 * (_random(9, 64, 64, 1) - 0.5).repeat(3, axis=2))
    texture = original - original.mean()
    result = composite(original, _grey(0.59, 16, 16), _grey(0.5, 16, 16), EVERYWHERE)
    detail = result - result.mean()
    assert (detail * texture).sum() / (texture * texture).sum() > 0.7


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 10))
@settings(max_examples=25, deadline=None)
def test_outside_the_mask_is_the_original(height: int, width: int, seed: int) -> None:
    """At any size, a zero mask returns the original bit for bit, whatever the edit."""
    original = as_levels(_random(seed, height, width, 3))
    result = composite(original, _random(1, 16, 16, 3), _random(2, 16, 16, 3), np.zeros((16, 16), np.float32))
    assert np.array_equal(result, original)


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 10_000), st.booleans())
@settings(max_examples=50, deadline=None)
def test_pictures_are_composited_in_bands_as_they_are_whole(height: int, width: int, band: int, keeps: bool) -> None:
    """At any size, and however many pixels at a time, bit for bit."""
    original = as_levels(_random(0, height, width, 3))
    reconstruction, mask = _random(1, 16, 16, 3), (_random(2, 16, 16) > 0.8).astype(np.float16)
    edited = np.where(_random(4, 16, 16, 1) > 0.5, _random(3, 16, 16, 3), reconstruction)
    found: dict[int, Pixels] = {}
    for pixels in (band, 1 << 16):
        with mock.patch.object(compositing, "_BAND", pixels):
            found[pixels] = composite(original, edited, reconstruction, mask, keeps_shape=keeps)
    assert np.array_equal(found[band], found[1 << 16])


@given(st.integers(1, 200), st.integers(2, 200))  # of one column torch 2.13 makes something else
@settings(max_examples=25, deadline=None)
def test_edits_are_enlarged_as_torch_enlarges(height: int, width: int) -> None:
    """An edit that takes all of the original's place is its own bilinear interpolation, to a level."""
    edited = 0.5 + 0.5 * _random(1, 16, 16, 3)
    original = as_levels(_random(0, height, width, 3))
    result = composite(original, edited, np.zeros_like(edited), EVERYWHERE, keeps_shape=False)
    assert np.abs(result - 255 * _enlarged(edited, height, width)).max() < 0.51


@pytest.mark.parametrize("size", [(64, 1), (1, 64), (8, 8)])
def test_an_edit_reaches_the_narrowest_originals(size: tuple[int, int]) -> None:
    """Of one column, of one row, and smaller than the working size; in half precision, in which pictures travel."""
    original, edited, before = as_levels(_grey(0.2, *size)), _grey(0.8, 16, 16), _grey(0.2, 16, 16)
    half = (values.astype(np.float16) for values in (edited, before, EVERYWHERE))
    assert np.abs(composite(original, *half).astype(int) - 204).max() <= 1


def test_values_are_rounded_to_the_nearest_level() -> None:
    """Halves to the even one, whatever their precision; what lies beyond [0, 1] is cut off."""
    assert as_levels(np.array([-0.1, 0, 0.5 / 255, 1.5 / 255, 0.5, 1, 1.1])).tolist() == [0, 0, 0, 2, 128, 255, 255]
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for dtype in (np.float16, np.float32):
        assert np.array_equal(as_levels((levels / 255).astype(dtype)), levels)


def test_what_drifts_along_with_an_edit_stays_the_original() -> None:
    """Beside a strong edit, a drift of an eighth of it is not an edit; alone, the same difference is."""
    original, reconstruction = as_levels(_random(10, 16, 16, 3)), _grey(0.2, 16, 16)
    drifting = reconstruction.copy()
    drifting[:, 12:] += 0.09
    edited = drifting.copy()
    edited[:, :8] += 0.7
    beside = composite(original, edited, reconstruction, EVERYWHERE)
    assert np.array_equal(beside[:, 13:], original[:, 13:])
    alone = composite(original, drifting, reconstruction, EVERYWHERE)
    assert np.abs(alone[:, 13:].astype(int) - original[:, 13:]).max() > 2


def test_a_new_object_shows_nothing_of_the_old_one() -> None:
    """Where shapes are not held, a small departure is the edit as well, without the original's detail."""
    reconstruction, everywhere = _grey(0.3, 32, 32), np.ones((32, 32), np.float32)
    original = as_levels(reconstruction + 0.05 * _random(0, 32, 32, 3))
    edited = reconstruction.copy()
    edited[4:28, 4:28] += 0.17
    edited[4:28, 16:28] += 0.33
    near = slice(8, 24), slice(8, 12)
    held, replaced = (
        composite(original, edited, reconstruction, everywhere, keeps_shape=keeps) for keeps in (True, False)
    )
    assert np.array_equal(replaced[near], as_levels(edited[near]))
    assert np.abs(held[near] - 255.0 * edited[near]).mean() > 0.02 * 255
    assert np.array_equal(replaced[:, 30:], original[:, 30:])


def test_an_edit_reaches_over_the_edge_of_its_pixels_in_a_larger_original() -> None:
    """A pixel of the working size next to an edited one acts in a larger original, and not in one of its own size."""
    reconstruction, edited = _grey(0.5, 16, 16), _grey(0.5, 16, 16)
    edited[:, :8] = 0.9
    small, large = as_levels(_grey(0.3, 16, 16)), as_levels(_grey(0.3, 64, 64))
    in_small, in_large = (composite(o, edited, reconstruction, EVERYWHERE) for o in (small, large))
    assert np.array_equal(in_small[:, 9], small[:, 9])
    assert np.abs(in_large[:, 36].astype(int) - large[:, 36]).min() > 2


def test_a_composite_without_an_edit_is_the_original() -> None:
    """Where edit and reconstruction agree, the autoencoder's own error does not show."""
    original, reconstruction = as_levels(_random(3, 90, 70, 3)), _random(4, 32, 24, 3)
    assert np.array_equal(composite(original, reconstruction, reconstruction, np.ones((32, 24))), original)
