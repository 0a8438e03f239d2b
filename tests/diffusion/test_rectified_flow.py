"""The rectified flow against closed forms, and against MONAI's scheduler."""

import math

import pytest
import torch
from monai.networks.schedulers import RFlowScheduler

from pig_monai.diffusion.grids import lambda_grid, uniform_grid
from pig_monai.diffusion.schedule import (
    CLEAN,
    NoiseSchedule,
    RectifiedFlow,
    check_prediction,
    make_schedule,
    schedule_from_dict,
)
from pig_monai.diffusion.solvers import SOLVERS, Estimate, ddim_step, dpmpp_2m_step
from pig_monai.errors import PigError
from tests.diffusion.toy import GaussianFlow, PerfectNetwork, rng, walk

FLOW = RectifiedFlow()
NOISE = torch.randn(64, 64, generator=rng(3), dtype=torch.float64)
MEAN = 0.5 * torch.randn(64, generator=rng(7), dtype=torch.float64)
SPREADS = (0.1, 0.3, 0.5)
GREY_LEVEL = 2 / 255
"""Of slices in [−1, 1]."""


def numbers(key: int) -> torch.Tensor:
    return torch.randn(5, 1, 3, 3, generator=rng(key), dtype=torch.float64)


def test_the_path_is_straight_from_the_image_to_pure_noise():
    x0, eps = numbers(1), numbers(2)
    t = torch.tensor([0, 255, 511, 767, 1023])
    x_t = FLOW.add_noise(x0, eps, t)
    for b, s in enumerate((1 / 1024, 0.25, 0.5, 0.75, 1.0)):
        torch.testing.assert_close(x_t[b], (1 - s) * x0[b] + s * eps[b], rtol=0, atol=1e-15)
    alpha, sigma = FLOW.scales(CLEAN, x0)
    assert (float(alpha), float(sigma)) == (1, 0)
    assert FLOW.half_log_snr(511) == pytest.approx(0, abs=1e-12)
    assert FLOW.half_log_snr(1023) == -math.inf


def test_estimates_undo_what_noise_and_target_did():
    x0, eps, t = numbers(1), numbers(2), torch.tensor([0, 1, 500, 1000, 1023])
    x_t = FLOW.add_noise(x0, eps, t)
    velocity = FLOW.target(x0, eps, t, "flow")
    torch.testing.assert_close(velocity, x0 - eps, rtol=0, atol=0)  # MAISI's and MONAI's sign
    x0_hat, eps_hat = FLOW.estimates(velocity, x_t, t, "flow")
    torch.testing.assert_close(x0_hat, x0, rtol=0, atol=1e-13)
    torch.testing.assert_close(eps_hat, eps, rtol=0, atol=1e-13)
    torch.testing.assert_close(FLOW.noise_between(x0, x_t, t), eps, rtol=0, atol=1e-11)


def test_an_error_of_the_sample_counts_as_the_error_of_the_velocity():
    x0, eps, error, t = numbers(1), numbers(2), numbers(3), torch.tensor([0, 300, 500, 1000, 1023])
    x_t = FLOW.add_noise(x0, eps, t)
    assert torch.equal(FLOW.target(x0, eps, t, "flow_sample"), x0)
    x0_hat, eps_hat = FLOW.estimates(x0 + error, x_t, t, "flow_sample")
    wanted = (FLOW.target(x0_hat, eps_hat, t, "flow") - (x0 - eps)).square()
    told = FLOW.error_weight(t, x0, "flow_sample") * error.square()
    torch.testing.assert_close(told[1:], wanted[1:], rtol=1e-9, atol=0)
    torch.testing.assert_close(told[0], 20 * error[0].square())
    assert FLOW.error_weight(t, x0, "flow") is None


@pytest.mark.parametrize("steps", [2, 3, 10, 25, 100, 1024])
@pytest.mark.parametrize("grid", [uniform_grid, lambda_grid])
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
@pytest.mark.parametrize("prediction", ["flow", "flow_sample"])
def test_perfect_network_gives_x0_back(prediction, solver, grid, steps):
    x0, eps = (2 * torch.rand(2, 5, generator=rng(key), dtype=torch.float64) - 1 for key in (1, 2))
    network = PerfectNetwork(FLOW, x0, eps, prediction)
    found = walk(FLOW, network, grid(FLOW, steps), SOLVERS[solver].step, eps)  # x_T is ε itself
    torch.testing.assert_close(found, x0, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("t", "t_next"), [(1023, 1022), (1023, 800), (500, 499), (7, 0), (3, CLEAN), (1023, CLEAN)]
)
def test_a_ddim_step_is_the_euler_step_of_monais_scheduler(t, t_next):
    """Their timesteps are 1-based; `set_timesteps` rounds them to float16, so they are given here."""
    theirs = RFlowScheduler(num_train_timesteps=1024)
    theirs.set_timesteps(num_inference_steps=30)
    x_t, velocity = numbers(1), numbers(2)
    wanted, wanted_x0 = theirs.step(velocity, t + 1, x_t, t_next + 1)
    now = Estimate(*FLOW.estimates(velocity, x_t, t, "flow"))
    torch.testing.assert_close(now.x0, wanted_x0, rtol=0, atol=1e-13)
    found = ddim_step(FLOW, x_t, now, t, t_next, None, draw=None)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)


def error(sigma: float, grid, step, steps: int) -> float:
    """The median of the samples' root mean square distances from where the flow's path ends."""
    flow = GaussianFlow(1024, MEAN, sigma)
    found = walk(flow.schedule, flow, grid(flow.schedule, steps), step, NOISE)
    return float((found - flow.end(NOISE)).square().mean(dim=1).sqrt().median())


@pytest.mark.parametrize("sigma", SPREADS)
@pytest.mark.parametrize(
    ("grid", "step", "order"), [(uniform_grid, ddim_step, 1), (lambda_grid, dpmpp_2m_step, 2)]
)
def test_order_of_convergence_to_the_exact_path(grid, step, order, sigma):
    coarse, fine = (error(sigma, grid, step, steps) for steps in (20, 80))
    assert math.log(coarse / fine, 4) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("sigma", SPREADS)
def test_thirty_steps_end_within_a_grey_level_of_the_exact_path(sigma):
    assert error(sigma, lambda_grid, dpmpp_2m_step, 30) < GREY_LEVEL < error(sigma, uniform_grid, ddim_step, 30)


def test_ancestral_sampling_has_no_meaning_on_a_flow():
    with pytest.raises(PigError, match="solver ddpm does not fit weights trained with prediction flow; give ddim"):
        SOLVERS["ddpm"].timesteps(FLOW, 30)
    assert len(SOLVERS["ddpm"].timesteps(NoiseSchedule())) == 1024


@pytest.mark.parametrize(
    ("prediction", "schedule"),
    [
        ("flow", RectifiedFlow(512)),
        ("flow_sample", RectifiedFlow(512)),
        ("v", NoiseSchedule(512, 2e-4, 0.03)),
        ("epsilon", NoiseSchedule(512, 2e-4, 0.03)),
        ("sample", NoiseSchedule(512, 2e-4, 0.03)),
    ],
)
def test_a_prediction_has_its_schedule_and_a_checkpoint_keeps_it(prediction, schedule):
    made = make_schedule(prediction, 512, 2e-4, 0.03)
    assert type(made) is type(schedule)
    kept = schedule_from_dict(made.to_dict())
    assert type(kept) is type(schedule)
    assert torch.equal(kept.alphas, schedule.alphas)
    assert torch.equal(kept.sigmas, schedule.sigmas)


def test_a_prediction_on_the_others_schedule_is_refused():
    for prediction, schedule in (
        ("flow", NoiseSchedule()),
        ("v", FLOW),
        ("epsilon", FLOW),
        ("sample", FLOW),
        ("x0", FLOW),
    ):
        with pytest.raises(PigError, match=f"prediction is '{prediction}'"):
            check_prediction(prediction, schedule)
    with pytest.raises(PigError, match="prediction is 'x0'; give epsilon, v, sample, flow or flow_sample"):
        make_schedule("x0")
    with pytest.raises(PigError, match="num_train_timesteps is 1"):
        make_schedule("flow", 1)
