"""Adam with a relative epsilon: torch's own where it should be, and calm where there is only noise."""

from __future__ import annotations

import torch

from pipeline.diffusion.adam import Adam


def test_it_is_torchs_adam_where_all_coordinates_matter_equally() -> None:
    """Gradients of one magnitude in all coordinates, whatever it is at each step, give torch's steps."""
    generator = torch.Generator().manual_seed(0)
    parameter = torch.zeros(6, 8, requires_grad=True)
    reference = torch.optim.Adam([parameter], lr=1.0)
    mine, adam = torch.zeros(1, 6, 8), Adam.of(torch.zeros(1, 6, 8))
    for magnitude in (1.0, 0.3, 2.0, 0.01):
        gradient = magnitude * (torch.randint(0, 2, (6, 8), generator=generator) * 2.0 - 1)
        parameter.grad = gradient
        reference.step()
        direction, adam = adam.direction(gradient[None])
        mine = mine - direction
    torch.testing.assert_close(mine[0], parameter.detach(), rtol=1e-4, atol=1e-5)


def test_a_coordinate_of_rounding_noise_hardly_moves() -> None:
    """A gradient a million times smaller than its row's moves a hundred thousandth as far, not as far."""
    gradient = torch.ones(1, 100)
    gradient[0, 0] = 1e-6
    direction, _ = Adam.of(gradient).direction(gradient)
    assert direction[0, 0].abs() < 1e-5 * direction[0, 1]


def test_rows_do_not_see_each_other() -> None:
    """A row's step is the same beside a row whose gradient is a thousand times larger, and after that row left."""
    gradient = torch.randn(2, 5, generator=torch.Generator().manual_seed(1)) * torch.tensor([[1.0], [1000.0]])
    both, state = Adam.of(gradient).direction(gradient)
    alone, own = Adam.of(gradient[:1]).direction(gradient[:1])
    assert torch.equal(both[:1], alone)
    assert torch.equal(
        state.kept(torch.tensor([True, False])).direction(gradient[:1])[0], own.direction(gradient[:1])[0]
    )


def test_a_row_without_a_gradient_stays() -> None:
    """No gradient, no step, and no NaN."""
    direction, _ = Adam.of(torch.zeros(1, 4)).direction(torch.zeros(1, 4))
    assert torch.equal(direction, torch.zeros(1, 4))
