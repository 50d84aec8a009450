"""Guidance, interpolation, masks and blending: identities at their ends."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.diffusion.blend import blend
from pipeline.diffusion.guidance import guided
from pipeline.diffusion.interpolate import interpolate, joint_target
from pipeline.diffusion.mask import grow, soft_mask


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
