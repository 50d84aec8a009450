"""The solver against diffusers' schedulers, and against its own inverse."""

from __future__ import annotations

import itertools

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, FlowMatchEulerDiscreteScheduler

from pipeline.diffusion.schedule import NoiseSchedule, ddim_schedule, flow_schedule
from pipeline.diffusion.solver import denoise, invert, step_down, step_undone, step_up

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
PREDICTIONS = ("epsilon", "v_prediction", "sample")


def _latents(seed: int, n: int = 2) -> torch.Tensor:
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def _ours(scheduler: DDIMScheduler, n_steps: int) -> NoiseSchedule:
    config = scheduler.config
    return ddim_schedule(
        scheduler.alphas_cumprod,
        n_steps,
        spacing=config.timestep_spacing,
        steps_offset=config.steps_offset,
        set_alpha_to_one=config.set_alpha_to_one,
        prediction=config.prediction_type,
    )


def _toy_network(z: torch.Tensor, step: int) -> torch.Tensor:
    """A smooth function of latents and step, in place of a network."""
    return torch.tanh(z * 0.7 + 0.01 * step) + 0.1 * z


@pytest.mark.parametrize(
    ("n_steps", "spacing", "set_alpha_to_one", "prediction"),
    [
        *itertools.product((1, 7, 50, 333), ("leading",), (False, True), PREDICTIONS),
        *itertools.product((1, 8, 50, 250), ("trailing",), (False, True), PREDICTIONS),
    ],
)
def test_denoising_is_ddim(n_steps: int, spacing: str, set_alpha_to_one: bool, prediction: str) -> None:
    """Every step down equals diffusers' DDIM step, at the same timestep."""
    scheduler = DDIMScheduler(
        **SD, timestep_spacing=spacing, steps_offset=1, set_alpha_to_one=set_alpha_to_one, prediction_type=prediction
    )
    scheduler.set_timesteps(n_steps)
    schedule = _ours(scheduler, n_steps)
    assert schedule.timesteps.flip(0).tolist() == scheduler.timesteps.tolist()
    z = _latents(n_steps)
    for step, timestep in zip(range(n_steps, 0, -1), scheduler.timesteps, strict=True):
        output = _toy_network(z, step)
        expected = scheduler.step(output, timestep, z, eta=0.0).prev_sample
        z_next = step_down(z, output, schedule, step)
        torch.testing.assert_close(z_next, expected, rtol=2e-4, atol=2e-5)
        z = expected


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("set_alpha_to_one", [False, True])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_random_steps_mean_and_noise_are_those_of_ddpm(eta: float, set_alpha_to_one: bool, prediction: str) -> None:
    """The mean and the noise drawn anew equal diffusers' DDIM step with eta."""
    scheduler = DDIMScheduler(**SD, steps_offset=1, set_alpha_to_one=set_alpha_to_one, prediction_type=prediction)
    scheduler.set_timesteps(20)
    schedule = _ours(scheduler, 20)
    z, noise = _latents(1), _latents(2)
    for step, timestep in zip(range(20, 0, -1), scheduler.timesteps, strict=True):
        output = _toy_network(z, step)
        expected = scheduler.step(output, timestep, z, eta=eta, variance_noise=noise).prev_sample
        ours = step_down(z, output, schedule, step, eta) + schedule.fresh_noise(step, eta) * noise
        torch.testing.assert_close(ours, expected, rtol=2e-4, atol=2e-5)
        z = expected


@pytest.mark.parametrize(("n_steps", "prediction"), [*itertools.product((10, 50), ("epsilon", "v_prediction"))])
def test_inversion_is_ddim_inversion(n_steps: int, prediction: str) -> None:
    """Every step up equals diffusers' inverse step under the checkpoint's own first alpha."""
    settings = {**SD, "steps_offset": 1, "set_alpha_to_one": False, "prediction_type": prediction}
    inverse = DDIMInverseScheduler(**settings)
    inverse.set_timesteps(n_steps)
    schedule = _ours(DDIMScheduler(**settings), n_steps)
    assert inverse.timesteps.tolist() == schedule.timesteps.tolist()
    z = _latents(3)
    for step, timestep in enumerate(inverse.timesteps, start=1):
        output = _toy_network(z, step)
        expected = inverse.step(output, timestep, z).prev_sample
        _, eps = schedule.pair(z, output, step - 1)
        torch.testing.assert_close(step_up(z, eps, schedule, step), expected, rtol=2e-4, atol=2e-5)
        z = expected


@pytest.mark.parametrize(("n_steps", "shift"), [*itertools.product((4, 28, 50), (1.0, 3.0))])
def test_flow_steps_are_eulers(n_steps: int, shift: float) -> None:
    """With alpha = 1 − t and sigma = t the same step is the rectified flow's Euler step."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(n_steps)
    schedule = flow_schedule(n_steps, shift=shift)
    torch.testing.assert_close(schedule.timesteps.flip(0), scheduler.timesteps.float(), rtol=1e-5, atol=1e-2)
    z = _latents(5)
    for step, timestep in zip(range(n_steps, 0, -1), scheduler.timesteps, strict=True):
        output = _toy_network(z, step)
        expected = scheduler.step(output, timestep, z).prev_sample
        torch.testing.assert_close(step_down(z, output, schedule, step), expected, rtol=1e-4, atol=1e-4)
        z = expected


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("step", [2, 25, 50])
def test_a_step_up_undoes_a_step_down(prediction: str, step: int) -> None:
    """Going down and up again along the same noise returns the latents."""
    schedule = _ours(DDIMScheduler(**SD, steps_offset=1, set_alpha_to_one=False, prediction_type=prediction), 50)
    z = _latents(7)
    output = _toy_network(z, step)
    _, eps = schedule.pair(z, output, step)
    torch.testing.assert_close(
        step_up(step_down(z, output, schedule, step), eps, schedule, step), z, rtol=1e-4, atol=1e-4
    )


def test_refinement_makes_inversion_exact() -> None:
    """Fixed-point iterations bring denoise(invert(z)) from an approximation to an identity."""
    schedule = _ours(DDIMScheduler(**SD, steps_offset=1, set_alpha_to_one=False), 20)
    errors = [_inversion_error(schedule, k) for k in (0, 2, 6, 20)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3 < errors[0]


@pytest.mark.parametrize("kind", ["v_prediction", "flow"])
def test_refinement_is_as_quick_for_other_predictions(kind: str) -> None:
    """Three iterations do, also from a flow's pure noise; iterated over eps, they would leave over twice the bound."""
    scheduler = DDIMScheduler(**SD, steps_offset=1, set_alpha_to_one=False, prediction_type="v_prediction")
    schedule = flow_schedule(20, shift=3.0) if kind == "flow" else _ours(scheduler, 20)
    assert _inversion_error(schedule, 3) < 1e-4 < _inversion_error(schedule, 0)


def _inversion_error(schedule: NoiseSchedule, refine_iterations: int) -> float:
    z_0 = _latents(11)
    trajectory = invert(_toy_network, z_0, schedule, refine_iterations)
    return float((denoise(_toy_network, trajectory[-1], schedule) - z_0).abs().max())


@pytest.mark.parametrize("kind", [*PREDICTIONS, "flow"])
@pytest.mark.parametrize("step", [1, 10, 20])
def test_a_step_is_undone_under_its_own_output(kind: str, step: int) -> None:
    """Whatever the network predicts, and down to the first step and from pure noise."""
    scheduler = DDIMScheduler(**SD, steps_offset=1, set_alpha_to_one=False, prediction_type=kind)
    schedule = flow_schedule(20, shift=3.0) if kind == "flow" else _ours(scheduler, 20)
    z = _latents(17)
    output = _toy_network(z, step)
    undone = step_undone(step_down(z, output, schedule, step), output, schedule, step)
    torch.testing.assert_close(undone, z, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("n_steps", "shift"), [*itertools.product((1, 3, 50), (1.0, 3.0))])
def test_a_flow_goes_from_no_noise_to_nothing_else(n_steps: int, shift: float) -> None:
    """Noise grows strictly from 0 to 1, signal is the rest, and the network is told a thousand times the noise."""
    schedule = flow_schedule(n_steps, shift=shift)
    assert (float(schedule.sigma[0]), float(schedule.sigma[-1])) == (0, 1)
    assert bool((schedule.sigma[1:] > schedule.sigma[:-1]).all())
    torch.testing.assert_close(schedule.alpha + schedule.sigma, torch.ones(n_steps + 1))
    torch.testing.assert_close(schedule.timesteps, 1000 * schedule.sigma[1:])


def test_trajectory_starts_at_the_image() -> None:
    """Index 0 of a trajectory is the clean latents, bit for bit."""
    schedule = _ours(DDIMScheduler(**SD, steps_offset=1, set_alpha_to_one=False), 10)
    z_0 = _latents(13)
    trajectory = invert(_toy_network, z_0, schedule)
    assert trajectory.shape == (11, *z_0.shape)
    assert torch.equal(trajectory[0], z_0)


@pytest.mark.parametrize(("n_steps", "spacing"), [(1000, "leading"), (1001, "trailing"), (1001, "linspace")])
def test_too_many_steps_are_refused(n_steps: int, spacing: str) -> None:
    """More steps than the model was trained with is a user's error that names the limit."""
    with pytest.raises(ValueError, match="at most"):
        ddim_schedule(DDIMScheduler(**SD).alphas_cumprod, n_steps, spacing=spacing, steps_offset=1)


@pytest.mark.parametrize("n_steps", [1, 3, 50, 77, 333, 999])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_noise_only_grows(n_steps: int, spacing: str) -> None:
    """Any number of steps gives strictly growing noise, also where it does not divide 1000."""
    schedule = ddim_schedule(DDIMScheduler(**SD).alphas_cumprod, n_steps, spacing=spacing, steps_offset=1)
    assert schedule.num_inference_steps == n_steps
    assert bool((schedule.timesteps[1:] > schedule.timesteps[:-1]).all())
    torch.testing.assert_close(schedule.alpha**2 + schedule.sigma**2, torch.ones(n_steps + 1))
