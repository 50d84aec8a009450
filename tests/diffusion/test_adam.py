"""Adam with a relative epsilon: torch's own where it should be, and calm where there is only noise."""

from __future__ import annotations

import torch

from pipeline.diffusion.adam import Adam


def test_it_is_torchs_adam_where_all_coordinates_matter_equally() -> None:
    """Gradients of one magnitude in all coordinates, whatever it is at each step, give torch's steps."""
    generator = torch.Generator().manual_seed(0)
    parameter = torch.zeros(6, 8, requires_grad=True)
    reference = torch.optim.Adam([parameter], lr=1.0)
    mine, adam = torch.zeros(6, 8), Adam.of(torch.zeros(6, 8))
    for magnitude in (1.0, 0.3, 2.0, 0.01):
        gradient = magnitude * (torch.randint(0, 2, (6, 8), generator=generator) * 2.0 - 1)
        parameter.grad = gradient
        reference.step()
        direction, adam = adam.direction(gradient)
        mine = mine - direction
    torch.testing.assert_close(mine, parameter.detach(), rtol=1e-4, atol=1e-5)


def test_a_coordinate_of_rounding_noise_hardly_moves() -> None:
    """A gradient a million times smaller than the others moves a hundred thousandth as far, not as far."""
    gradient = torch.ones(100)
    gradient[0] = 1e-6
    direction, _ = Adam.of(gradient).direction(gradient)
    assert direction[0].abs() < 1e-5 * direction[1]


def test_an_embedding_without_a_gradient_stays() -> None:
    """No gradient, no step, and no NaN."""
    direction, _ = Adam.of(torch.zeros(4)).direction(torch.zeros(4))
    assert torch.equal(direction, torch.zeros(4))
