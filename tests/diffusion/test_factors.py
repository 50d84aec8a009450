"""Factors of learned embeddings: small, and nearly what they were."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.diffusion.factors import delta_at, factored
from pipeline.io.tensors import pack


def _deltas(rank: int, n: int = 2, steps: int = 20, tokens: int = 7, width: int = 16) -> Tensor:
    """Deltas that move along `rank` directions, each half as far as the one before."""
    generator = torch.Generator().manual_seed(rank)
    shares = torch.randn(n, steps, rank, generator=generator) * 0.5 ** torch.arange(rank)
    return torch.einsum("nsr,nrtw->nstw", shares, torch.randn(n, rank, tokens, width, generator=generator))


def _missed(deltas: Tensor) -> Tensor:
    """The share of each image's deltas, by root mean square, that its factors miss."""
    factors = _factors(deltas)
    again = torch.stack([delta_at(factors, step) for step in range(deltas.shape[1])], dim=1)
    return (again - deltas).flatten(1).norm(dim=1) / deltas.flatten(1).norm(dim=1)


def _factors(deltas: Tensor) -> dict[str, Tensor]:
    """Those of each image, stacked."""
    each = [factored(one) for one in deltas]
    return {name: torch.stack([factors[name] for factors in each]) for name in each[0]}


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_few_directions_are_kept_whole(rank: int) -> None:
    """Deltas of no more directions than are kept come back to a hundredth: eight bits lose little."""
    assert _missed(_deltas(rank)).max() < 0.01


def test_the_largest_directions_are_kept() -> None:
    """Of more, what is missed is no more than what lies beyond the largest, by their singular values."""
    deltas = _deltas(12)
    values = torch.linalg.svdvals(deltas.flatten(2))
    beyond = values[:, 8:].norm(dim=1) / values.norm(dim=1)
    assert (_missed(deltas) < beyond + 0.01).all()


def test_fewer_steps_than_directions_are_kept_whole() -> None:
    """One embedding for all steps has one direction."""
    assert _factors(_deltas(3, steps=1))["directions"].shape[1] == 1
    assert _missed(_deltas(3, steps=1)).max() < 0.01


def test_what_was_not_moved_stays() -> None:
    """Without deltas there is nothing to add, and no NaN."""
    factors = _factors(torch.zeros(1, 5, 3, 4))
    assert all(not delta_at(factors, step).any() for step in range(5))


def test_what_is_not_finite_shows_in_what_is_kept() -> None:
    """No algebra fails over it."""
    deltas = _deltas(3, n=1)
    deltas[0, 4, 2, 5] = torch.nan
    assert not bool(factored(deltas[0])["scales"].isfinite().any())


def test_an_artifact_of_stable_diffusions_size_is_small() -> None:
    """With the latents of 512 × 512 pixels, 50 embeddings take less than 256 KB; whole ones in float16 take 5.9 MB."""
    factors = factored(torch.randn(50, 77, 768, generator=torch.Generator().manual_seed(0)))
    latents = torch.zeros(4, 64, 64, dtype=torch.float16)
    assert len(pack({**factors, "latents": latents})) <= 256_000


def test_few_steps_are_kept_in_eight_bits_where_they_fit() -> None:
    """One embedding for all steps has one direction, at Stable Diffusion's size, too: rounding loses a hundredth."""
    deltas = _deltas(3, steps=1, tokens=77, width=768)
    assert _factors(deltas)["directions"].dtype is torch.int8
    assert bool((_missed(deltas) < 0.01).all())


def test_larger_ones_are_kept_in_four_bits() -> None:
    """Six directions, in half of the bytes that their levels take one by one; rounding loses a sixth at most."""
    deltas = _deltas(6, tokens=77, width=768)
    directions = _factors(deltas)["directions"]
    assert (directions.dtype, directions.shape[1:]) == (torch.uint8, (6, 77, 384))
    assert _missed(deltas).max() < 1 / 6


def test_directions_of_eight_bits_are_read_as_such() -> None:
    """As all were before version 4: each level a byte of its own."""
    factors = _factors(_deltas(3, tokens=77, width=768))
    levels = torch.stack([factors["directions"] & 15, factors["directions"] >> 4], dim=-1).flatten(-2).char() - 8
    assert (int(levels.min()), int(levels.max())) == (-7, 7)
    old = {**factors, "directions": levels * 16, "scales": factors["scales"] / 16}
    torch.testing.assert_close(delta_at(old, 4), delta_at(factors, 4), rtol=1e-2, atol=1e-3)
