"""Embedding fits: rows are independent, converge, and never touch the network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pipeline.diffusion.fit import Fit, FitSettings, fit_per_step, fit_shared
from pipeline.diffusion.schedule import NoiseSchedule, ddim_schedule
from pipeline.diffusion.solver import invert

STEPS, TOKENS, WIDTH = 6, 3, 8


class SmallNetwork(nn.Module):
    """A real, if tiny, conditional network: a convolution modulated by the embedding and the step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Conv2d(4, 4, 3, padding=1)
        self.shift = nn.Linear(TOKENS * WIDTH, 4)
        self.requires_grad_(False)

    def forward(self, z: Tensor, steps: Tensor, embedding: Tensor) -> Tensor:
        return torch.tanh(
            self.mix(z) + self.shift(embedding.flatten(1))[..., None, None] + 0.02 * steps.view(-1, 1, 1, 1)
        )


@pytest.fixture
def network() -> SmallNetwork:
    """The small network."""
    return SmallNetwork()


@pytest.fixture
def schedule() -> NoiseSchedule:
    """Stable Diffusion's schedule in a few steps."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return ddim_schedule((1 - betas).cumprod(0), STEPS)


def _problem(
    network: SmallNetwork, schedule: NoiseSchedule, n: int, refine_iterations: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Trajectories of n images, a start embedding for each, and the unconditional embedding."""
    generator = torch.Generator().manual_seed(1)
    z_0 = torch.randn(n, 4, 8, 8, generator=generator) * torch.linspace(0.2, 1.5, n).view(-1, 1, 1, 1)
    start = torch.randn(n, TOKENS, WIDTH, generator=generator)
    unconditional = torch.randn(1, TOKENS, WIDTH, generator=generator)

    def predict(z: Tensor, step: int) -> Tensor:
        return network(z, torch.full((len(z),), step), unconditional.expand(len(z), -1, -1))

    return invert(predict, z_0, schedule, refine_iterations), start, unconditional


def _settings(**changes: float) -> FitSettings:
    values = {"guidance_scale": 3.0, "max_iterations": 12, "learning_rate": 5e-2, "tolerance": 1e-4} | changes
    return FitSettings(**values)  # type: ignore[arg-type]


def _error(fit: Fit, trajectory: Tensor) -> Tensor:
    return (fit.z_0 - trajectory[0]).square().mean(dim=(1, 2, 3))


@pytest.mark.parametrize("fit", [fit_per_step, fit_shared])
def test_a_batch_gives_each_row_what_it_would_get_alone(fit, network, schedule) -> None:  # noqa: ANN001
    """Embeddings, iterations and landing points do not depend on batch mates."""
    trajectory, start, unconditional = _problem(network, schedule, 5)
    together = fit(network, trajectory, start, unconditional, schedule, _settings())
    for i in range(5):
        alone = fit(network, trajectory[:, i : i + 1], start[i : i + 1], unconditional, schedule, _settings())
        assert int(alone.iterations) == int(together.iterations[i])
        torch.testing.assert_close(alone.embeddings[:, 0], together.embeddings[:, i], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(alone.z_0[0], together.z_0[i], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("fit", [fit_per_step, fit_shared])
def test_fitting_improves_the_reconstruction_of_every_row(fit, network, schedule) -> None:  # noqa: ANN001
    """A budget of iterations lands nearer to the image than none."""
    trajectory, start, unconditional = _problem(network, schedule, 4)
    unfitted = fit(network, trajectory, start, unconditional, schedule, _settings(max_iterations=0))
    fitted = fit(network, trajectory, start, unconditional, schedule, _settings(max_iterations=40, tolerance=0.0))
    assert bool((_error(fitted, trajectory) < _error(unfitted, trajectory)).all())


def test_a_row_that_already_reconstructs_takes_no_iterations(network, schedule) -> None:  # noqa: ANN001
    """At guidance 1 an exactly inverted trajectory is retraced by the embedding it was made under."""
    trajectory, _, unconditional = _problem(network, schedule, 3, refine_iterations=40)
    start = unconditional.expand(3, -1, -1)
    found = fit_per_step(
        network, trajectory, start, unconditional, schedule, _settings(guidance_scale=1.0, tolerance=1e-4)
    )
    assert found.iterations.tolist() == [0, 0, 0]
    assert torch.equal(found.embeddings, start.expand(STEPS, -1, -1, -1))


def test_rows_stop_on_their_own(network, schedule) -> None:  # noqa: ANN001
    """A row whose start already fits leaves the batch at once, while its mates go on."""
    trajectory, start, unconditional = _problem(network, schedule, 3, refine_iterations=40)
    start[1] = unconditional[0]
    found = fit_per_step(network, trajectory, start, unconditional, schedule, _settings())
    iterations = found.iterations.tolist()
    assert iterations[1] == 0
    assert min(iterations[0], iterations[2]) > 0


@pytest.mark.parametrize("fit", [fit_per_step, fit_shared])
def test_a_row_says_whether_it_converged(fit, network, schedule) -> None:  # noqa: ANN001
    """Within its tolerance it has, however its mates fare; where iterations ran out it has not."""
    trajectory, start, unconditional = _problem(network, schedule, 3, refine_iterations=40)
    start[1] = unconditional[0]
    settings = _settings(guidance_scale=1.0, max_iterations=1, learning_rate=1e-4, tolerance=1e-5)
    assert fit(network, trajectory, start, unconditional, schedule, settings).converged.tolist() == [False, True, False]
    loose = _settings(tolerance=1e3)
    assert fit(network, trajectory, start, unconditional, schedule, loose).converged.all()


def test_the_network_collects_no_gradients(network, schedule) -> None:  # noqa: ANN001
    """Only embeddings are learned; the frozen network's weights have no gradient afterwards."""
    trajectory, start, unconditional = _problem(network, schedule, 2)
    fit_per_step(network, trajectory, start, unconditional, schedule, _settings())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert start.grad is None
