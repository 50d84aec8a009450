"""Guidance, interpolation, masks, blending and compositing: identities at their ends."""

from __future__ import annotations

from unittest import mock

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.diffusion import composite as compositing
from pipeline.diffusion.blend import blend
from pipeline.diffusion.composite import composite, composite_pixels
from pipeline.diffusion.guidance import guided
from pipeline.diffusion.interpolate import interpolate, joint_target
from pipeline.diffusion.mask import grow, soft_mask
from pipeline.diffusion.pixels import to_bytes


def _random(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_guidance_is_per_row_and_exact_at_its_ends() -> None:
    """Scale 0 is the unconditional output, 1 the conditional one, each row by its own scale."""
    u, c = _random(1, 3, 4, 8, 8), _random(2, 3, 4, 8, 8)
    mixed = guided(u, c, torch.tensor([0.0, 1.0, 2.0]))
    assert torch.equal(mixed[0], u[0])
    torch.testing.assert_close(mixed[1], c[1])
    torch.testing.assert_close(mixed[2], 2 * c[2] - u[2])


@given(st.floats(-1, 3))
@settings(max_examples=25, deadline=None)
def test_interpolation_is_a_straight_line(s: float) -> None:
    """Strength 0 is what was learned, 1 the target, and everything between and beyond lies on their line."""
    learned, target, source = (_random(k, 1, 5, 8) for k in range(3))
    strength = torch.tensor([s])
    torch.testing.assert_close(interpolate(learned, target, strength), (1 - s) * learned + s * target)
    torch.testing.assert_close(
        interpolate(learned, target, strength, source), learned + s * (target - source), rtol=1e-4, atol=1e-5
    )


def test_several_targets_add_up() -> None:
    """One at strength 1 is itself bit for bit, none at all is the base, and the order is free up to rounding."""
    base, one, other = (_random(k, 2, 5, 8) for k in range(3))
    assert torch.equal(joint_target(one, torch.ones(2), base), one)
    assert torch.equal(joint_target(0 * one, torch.zeros(2), base), base)
    expected = base + 0.5 * (one - base) + 2 * (other - base)
    for weighted in (0.5 * one + 2 * other, 2 * other + 0.5 * one):
        torch.testing.assert_close(joint_target(weighted, torch.full((2,), 2.5), base), expected)


def test_predictions_that_agree_give_an_empty_mask() -> None:
    """No difference, no place to edit; other rows are not affected."""
    difference = torch.zeros(2, 4, 16, 16)
    difference[1, :, 4:9, 4:9] = 1.0
    mask = soft_mask(difference, threshold=0.25, softness=0.2)
    assert mask[0].max() == 0
    assert mask[1, 0, 6, 6] == 1
    assert mask[1, 0, 13, 13] == 0


def test_a_mask_does_not_depend_on_the_scale_of_differences() -> None:
    """Masks are relative to each row's own largest difference."""
    difference = _random(4, 1, 4, 16, 16)
    torch.testing.assert_close(soft_mask(difference, 0.5, 0.2), soft_mask(difference * 7, 0.5, 0.2))


def test_growing_a_mask_only_adds() -> None:
    """A grown mask covers the mask, and radius 0 is the mask itself."""
    mask = (_random(5, 2, 1, 16, 16) > 0.9).float()
    assert bool((grow(mask, 2) >= mask).all())
    assert torch.equal(grow(mask, 0), mask)


def test_blending_takes_each_side_exactly() -> None:
    """Mask 0 is the source bit for bit, mask 1 the edit."""
    edited, source = _random(6, 1, 4, 8, 8), _random(7, 1, 4, 8, 8)
    assert torch.equal(blend(edited, source, torch.zeros(1, 1, 8, 8)), source)
    torch.testing.assert_close(blend(edited, source, torch.ones(1, 1, 8, 8)), edited)


def test_an_edit_replaces_content_without_ghosts() -> None:
    """Where an edit departs far, none of the original's detail shows through."""
    original = _random(8, 3, 64, 64)
    reconstruction, edited = torch.zeros(3, 32, 32), torch.ones(3, 32, 32)
    result = composite(original, edited, reconstruction, torch.ones(1, 32, 32))
    assert float((result - 1).abs().max()) < 1e-3


def test_a_small_recolouring_keeps_the_originals_detail() -> None:
    """Where an edit stays close, fine texture that the model never saw survives."""
    texture = 0.05 * (_random(9, 1, 64, 64) - 0.5)
    original = 0.5 + texture.expand(3, -1, -1)
    reconstruction, edited = torch.full((3, 16, 16), 0.5), torch.full((3, 16, 16), 0.59)
    result = composite(original, edited, reconstruction, torch.ones(1, 16, 16))
    detail = result - result.mean(dim=(1, 2), keepdim=True)
    assert float((detail * texture).sum() / (texture * texture).sum() / 3) > 0.7


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 10))
@settings(max_examples=25, deadline=None)
def test_outside_the_mask_is_the_original(height: int, width: int, seed: int) -> None:
    """At any size, a zero mask returns the original bit for bit, whatever the edit."""
    original = _random(seed, 3, height, width)
    result = composite(original, _random(1, 3, 16, 16), _random(2, 3, 16, 16), torch.zeros(1, 16, 16))
    assert torch.equal(result, original)


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 10_000), st.booleans())
@settings(max_examples=50, deadline=None)
def test_stored_pictures_are_composited_in_bands_as_they_are_whole(
    height: int, width: int, band: int, keeps: bool
) -> None:
    """At any size, and however many pixels at a time: to rounding."""
    original = to_bytes(_random(0, height, width, 3))
    reconstruction, mask = _random(1, 16, 16, 3), (_random(2, 16, 16) > 0.8).float()
    edited = reconstruction.lerp(_random(3, 16, 16, 3), (_random(4, 16, 16, 1) > 0.5).float())
    planes = (x.permute(2, 0, 1) for x in (original / 255, edited, reconstruction, mask[..., None]))
    whole = composite(*planes, keeps_shape=keeps).permute(1, 2, 0)
    with mock.patch.object(compositing, "_BAND", band):
        found = composite_pixels(original, edited, reconstruction, mask, keeps_shape=keeps)
    assert float((found - 255 * whole).abs().max()) < 0.51


@given(st.integers(16, 200), st.integers(2, 200))  # of one column torch 2.13 makes something else
@settings(max_examples=25, deadline=None)
def test_edits_are_enlarged_as_torch_enlarges(height: int, width: int) -> None:
    """An edit that takes all of the original's place is its own bilinear interpolation."""
    edited, everywhere = 0.5 + 0.5 * _random(1, 3, 16, 16), torch.ones(1, 16, 16)
    result = composite(_random(0, 3, height, width), edited, torch.zeros_like(edited), everywhere, keeps_shape=False)
    enlarged = torch.nn.functional.interpolate(edited[None], (height, width), mode="bilinear", antialias=True)[0]
    torch.testing.assert_close(result, enlarged, atol=1e-5, rtol=0)


def test_what_drifts_along_with_an_edit_stays_the_original() -> None:
    """Beside a strong edit, a drift of an eighth of it is not an edit; alone, the same difference is."""
    original, reconstruction = _random(10, 3, 16, 16), torch.full((3, 16, 16), 0.2)
    drifting = reconstruction.clone()
    drifting[:, :, 12:] += 0.09
    edited = drifting.clone()
    edited[:, :, :8] += 0.7
    everywhere = torch.ones(1, 16, 16)
    beside = composite(original, edited, reconstruction, everywhere)
    assert torch.equal(beside[:, :, 13:], original[:, :, 13:])
    alone = composite(original, drifting, reconstruction, everywhere)
    assert not torch.allclose(alone[:, :, 13:], original[:, :, 13:], atol=0.01)


def test_a_new_object_shows_nothing_of_the_old_one() -> None:
    """Where shapes are not held, a small departure is the edit as well, without the original's detail."""
    reconstruction = torch.full((3, 32, 32), 0.3)
    original = reconstruction + 0.05 * _random(0, 3, 32, 32)
    edited = reconstruction.clone()
    edited[:, 4:28, 4:28] += 0.17
    edited[:, 4:28, 16:28] += 0.33
    near, everywhere = (slice(None), slice(8, 24), slice(8, 12)), torch.ones(1, 32, 32)
    held, replaced = (
        composite(original, edited, reconstruction, everywhere, keeps_shape=keeps) for keeps in (True, False)
    )
    torch.testing.assert_close(replaced[near], edited[near])
    assert float((held[near] - edited[near]).abs().mean()) > 0.02
    outside = (slice(None), slice(None), slice(30, 32))
    assert torch.equal(replaced[outside], original[outside])


def test_an_edit_reaches_over_the_edge_of_its_pixels_in_a_larger_original() -> None:
    """A pixel of the working size next to an edited one acts in a larger original, and not in one of its own size."""
    reconstruction, edited = torch.full((3, 16, 16), 0.5), torch.full((3, 16, 16), 0.5)
    edited[:, :, :8] = 0.9
    small, large = torch.full((3, 16, 16), 0.3), torch.full((3, 64, 64), 0.3)
    everywhere = torch.ones(1, 16, 16)
    in_small, in_large = (composite(o, edited, reconstruction, everywhere) for o in (small, large))
    assert torch.equal(in_small[:, :, 9], small[:, :, 9])
    assert float((in_large[:, :, 36] - large[:, :, 36]).abs().min()) > 0.01
