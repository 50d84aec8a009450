"""Embedding fits: rows are independent, converge, and never touch the network."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from pipeline.diffusion.fit import Fit, FitSettings, fit_per_segment, fit_per_step
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
    values = {"max_iterations": 12, "learning_rate": 5e-2, "tolerance": 1e-4} | changes
    return FitSettings(guidance_scales=(values.pop("guidance_scale", 3.0),) * STEPS, **values)  # type: ignore[arg-type]


def _error(fit: Fit, trajectory: Tensor) -> Tensor:
    return (fit.z_0 - trajectory[0]).square().mean(dim=(1, 2, 3))


in_two_segments = partial(fit_per_segment, segments=2)


@pytest.mark.parametrize("fit", [fit_per_step, fit_per_segment, in_two_segments])
def test_a_batch_gives_each_row_what_it_would_get_alone(fit, network, schedule) -> None:  # noqa: ANN001
    """Embeddings, iterations and landing points do not depend on batch mates."""
    trajectory, start, unconditional = _problem(network, schedule, 5)
    together = fit(network, trajectory, start, unconditional, schedule, _settings())
    for i in range(5):
        alone = fit(network, trajectory[:, i : i + 1], start[i : i + 1], unconditional, schedule, _settings())
        assert int(alone.iterations) == int(together.iterations[i])
        torch.testing.assert_close(alone.kept["embeddings"][0], together.kept["embeddings"][i], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(alone.z_0[0], together.z_0[i], rtol=1e-3, atol=1e-4)


def test_a_step_is_fitted_though_a_call_with_gradients_finds_that_its_error_would_do(network, schedule) -> None:  # noqa: ANN001
    """As rounding may near a stop. Here the two kinds of call differ grossly: under gradients all inverts exactly."""
    trajectory, start, unconditional = _problem(network, schedule, 2, refine_iterations=20)

    def predict(z: Tensor, steps: Tensor, embedding: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return network(z, steps, embedding)  # type: ignore[no-any-return]
        return network(z, steps, unconditional.expand(len(z), -1, -1)) + 0 * embedding.sum()  # type: ignore[no-any-return]

    found = fit_per_step(predict, trajectory, start, unconditional, schedule, _settings(guidance_scale=1.0))
    assert bool(found.kept["embeddings"].isfinite().all())
    assert bool((found.iterations > 0).all())


@pytest.mark.parametrize("fit", [fit_per_step, fit_per_segment, in_two_segments])
def test_fitting_improves_the_reconstruction_of_every_row(fit, network, schedule) -> None:  # noqa: ANN001
    """A budget of iterations lands nearer to the image than none."""
    trajectory, start, unconditional = _problem(network, schedule, 4)
    unfitted = fit(network, trajectory, start, unconditional, schedule, _settings(max_iterations=0))
    fitted = fit(network, trajectory, start, unconditional, schedule, _settings(max_iterations=40, tolerance=0.0))
    assert bool((_error(fitted, trajectory) < _error(unfitted, trajectory)).all())


@pytest.mark.parametrize("fit", [fit_per_step, in_two_segments])
def test_of_each_row_is_kept_what_it_is_asked_to_keep(fit, network, schedule) -> None:  # noqa: ANN001
    """Row by row, each with what it started from."""
    trajectory, start, unconditional = _problem(network, schedule, 3)
    fitted = partial(fit, network, trajectory, start, unconditional, schedule, _settings(), slots=2)
    moved = fitted(keep=lambda embeddings, began: {"moved": (embeddings - began).sum(dim=0)}).kept
    torch.testing.assert_close(moved["moved"], (fitted().kept["embeddings"] - start[:, None]).sum(dim=1))


def test_a_row_that_already_reconstructs_takes_no_iterations(network, schedule) -> None:  # noqa: ANN001
    """At guidance 1 an exactly inverted trajectory is retraced by the embedding it was made under."""
    trajectory, _, unconditional = _problem(network, schedule, 3, refine_iterations=40)
    start = unconditional.expand(3, -1, -1)
    found = fit_per_step(
        network, trajectory, start, unconditional, schedule, _settings(guidance_scale=1.0, tolerance=1e-4)
    )
    assert found.iterations.tolist() == [0, 0, 0]
    assert torch.equal(found.kept["embeddings"], start[:, None].expand(-1, STEPS, -1, -1))


def test_rows_stop_on_their_own(network, schedule) -> None:  # noqa: ANN001
    """A row whose start already fits leaves the batch at once, while its mates go on."""
    trajectory, start, unconditional = _problem(network, schedule, 3, refine_iterations=40)
    start[1] = unconditional[0]
    found = fit_per_step(network, trajectory, start, unconditional, schedule, _settings())
    iterations = found.iterations.tolist()
    assert iterations[1] == 0
    assert min(iterations[0], iterations[2]) > 0


def test_the_network_collects_no_gradients(network, schedule) -> None:  # noqa: ANN001
    """Only embeddings are learned; the frozen network's weights have no gradient afterwards."""
    trajectory, start, unconditional = _problem(network, schedule, 2)
    fit_per_step(network, trajectory, start, unconditional, schedule, _settings())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert start.grad is None


def test_more_segments_land_nearer_to_the_image(network, schedule) -> None:  # noqa: ANN001
    """An embedding for each half of the steps serves each row better than one for all of them."""
    trajectory, start, unconditional = _problem(network, schedule, 4)
    budget = _settings(max_iterations=60, tolerance=0.0)
    one, two = (
        fit_per_segment(network, trajectory, start, unconditional, schedule, budget, segments) for segments in (1, 2)
    )
    assert bool((_error(two, trajectory) < _error(one, trajectory)).all())


def test_a_row_stops_once_an_iteration_gains_little(network, schedule) -> None:  # noqa: ANN001
    """With a least gain rows take fewer iterations, count as converged, and land nearer than unfitted ones."""
    trajectory, start, unconditional = _problem(network, schedule, 4)

    def fit(gain: float, iterations: int = 40) -> Fit:
        settings = _settings(tolerance=0.0, min_gain=gain, max_iterations=iterations)
        return fit_per_step(network, trajectory, start, unconditional, schedule, settings)

    patient, hasty, unfitted = fit(0.0), fit(0.05), fit(0.0, 0)
    assert bool((hasty.iterations < patient.iterations).all())
    assert hasty.converged.tolist() == [True] * 4
    assert patient.converged.tolist() == [False] * 4
    assert bool((_error(hasty, trajectory) < _error(unfitted, trajectory)).all())


def test_a_fit_keeps_the_best_it_has_seen(network, schedule) -> None:  # noqa: ANN001
    """A rate so high that iterations do harm leaves no row worse than it began."""
    trajectory, start, unconditional = _problem(network, schedule, 3)
    # One step, so that nothing but its own iterations decides where it lands.
    one_step = NoiseSchedule(schedule.timesteps[-1:], schedule.alpha[-2:], schedule.sigma[-2:], schedule.prediction)

    def fit(iterations: int) -> Fit:
        settings = _settings(learning_rate=50.0, max_iterations=iterations, tolerance=0.0)
        return fit_per_step(network, trajectory[-2:], start, unconditional, one_step, settings)

    assert bool((_error(fit(3), trajectory[-2:]) <= _error(fit(0), trajectory[-2:])).all())


@pytest.mark.parametrize("threshold", ["tolerance", "min_gain"])
def test_rounding_at_a_threshold_changes_next_to_nothing(threshold, network, schedule) -> None:  # noqa: ANN001
    """A row that just has enough and one that just has not end alike, though one takes more iterations."""
    trajectory, start, unconditional = _problem(network, schedule, 1)
    one_step = NoiseSchedule(schedule.timesteps[-1:], schedule.alpha[-2:], schedule.sigma[-2:], schedule.prediction)

    def fit(iterations: int, **enough: float) -> Fit:
        settings = _settings(max_iterations=iterations, **{"tolerance": 0.0, "min_gain": 0.0} | enough)
        return fit_per_step(network, trajectory[-2:], start, unconditional, one_step, settings)

    # The budget is as long, so that the rates are the same; an unreachable gain stops a row after one iteration.
    before = float(_error(fit(0), trajectory[-2:]))
    after = float(_error(fit(12, min_gain=0.999), trajectory[-2:]))
    assert after < before
    at = before if threshold == "tolerance" else 1 - after / before
    low, high = (fit(12, **{threshold: at * factor}) for factor in (0.9999, 1.0001))
    assert int(low.iterations) != int(high.iterations)
    torch.testing.assert_close(low.kept["embeddings"], high.kept["embeddings"], rtol=0, atol=1e-4)
