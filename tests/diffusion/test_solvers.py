import math

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from pig_monai.diffusion.grids import lambda_grid, uniform_grid
from pig_monai.diffusion.schedule import CLEAN, NoiseSchedule
from pig_monai.diffusion.solvers import SOLVERS, Estimate, ddim_step, ddpm_step, dpmpp_2m_step
from tests.diffusion.toy import GaussianMixture, PerfectNetwork, rng, walk

SCHEDULE = NoiseSchedule()
GRIDS = {"uniform": uniform_grid, "lambda": lambda_grid}
NOISE = torch.randn(64, 64, generator=rng(3), dtype=torch.float64)


def rmse(a: torch.Tensor, b: torch.Tensor) -> float:
    """The median of the samples' root mean square errors.

    A sample that starts on the border between two modes may end in either, whatever the solver; in a mean, one
    such sample outweighs the other 63.
    """
    return float((a - b).square().mean(dim=1).sqrt().median())


@pytest.mark.parametrize("steps", [2, 3, 10, 25, 100, 256, 1000, 1024])
@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_perfect_network_gives_x0_back(solver, grid, prediction, steps):
    x0 = torch.rand(2, 5, generator=rng(1), dtype=torch.float64) * 2 - 1
    eps = torch.randn(2, 5, generator=rng(2), dtype=torch.float64)
    network = PerfectNetwork(SCHEDULE, x0, eps, prediction, deterministic=solver != "ddpm")
    x_T = SCHEDULE.add_noise(x0, eps, torch.tensor([1023]))
    generator = rng(4)
    result = walk(
        SCHEDULE, network, GRIDS[grid](SCHEDULE, steps), SOLVERS[solver].step, x_T,
        draw=lambda like: torch.randn(like.shape, generator=generator, dtype=torch.float64),
    )  # fmt: skip
    torch.testing.assert_close(result, x0, rtol=0, atol=1e-10)


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5])
def test_accuracy_on_an_exact_denoiser(sigma):
    denoise = GaussianMixture(SCHEDULE, sigma)
    converged = walk(SCHEDULE, denoise, lambda_grid(SCHEDULE, 1024), dpmpp_2m_step, NOISE)
    ddim = rmse(walk(SCHEDULE, denoise, uniform_grid(SCHEDULE, 256), ddim_step, NOISE), converged)
    fast = rmse(walk(SCHEDULE, denoise, lambda_grid(SCHEDULE, 25), dpmpp_2m_step, NOISE), converged)
    assert ddim <= 1e-2
    assert fast <= 1.5 * ddim


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5])
@pytest.mark.parametrize(("step", "low", "high"), [(ddim_step, 0.9, 1.1), (dpmpp_2m_step, 1.9, 2.7)])
def test_order_of_convergence(step, low, high, sigma):
    denoise = GaussianMixture(SCHEDULE, sigma)
    converged = walk(SCHEDULE, denoise, lambda_grid(SCHEDULE, 1024), dpmpp_2m_step, NOISE)
    coarse, fine = (
        rmse(walk(SCHEDULE, denoise, lambda_grid(SCHEDULE, n), step, NOISE), converged) for n in (20, 80)
    )
    assert low <= math.log(coarse / fine, 4) <= high


def test_converged_solution_is_the_one_ddim_converges_to():
    # two solvers of different order that share no line agree in the limit
    denoise = GaussianMixture(SCHEDULE, 0.3)
    second = walk(SCHEDULE, denoise, lambda_grid(SCHEDULE, 1024), dpmpp_2m_step, NOISE)
    first = walk(SCHEDULE, denoise, uniform_grid(SCHEDULE, 1024), ddim_step, NOISE)
    assert rmse(first, second) <= 2e-3


@pytest.mark.parametrize("steps", [5, 25, 60])
def test_dpmpp_2m_agrees_with_diffusers_on_the_same_grid(steps):
    denoise = GaussianMixture(SCHEDULE, 0.3)
    grid = lambda_grid(SCHEDULE, steps)
    theirs = DPMSolverMultistepScheduler(
        num_train_timesteps=1024, beta_start=1e-4, beta_end=0.02, beta_schedule="linear",
        algorithm_type="dpmsolver++", solver_order=2, prediction_type="sample",
        final_sigmas_type="zero", lower_order_final=False,
    )  # fmt: skip
    theirs.set_timesteps(timesteps=[t for t, _ in grid])
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1024, dtype=torch.float64), 0)
    noise_levels = [float(((1 - alpha_bar[t]) / alpha_bar[t]).sqrt()) for t, _ in grid]
    theirs.sigmas = torch.tensor([*noise_levels, 0.0], dtype=torch.float64)  # theirs are rounded to float32
    x = NOISE.clone()
    for t, _ in grid:
        x = theirs.step(denoise(x, t).x0, t, x).prev_sample
    ours = walk(SCHEDULE, denoise, grid, dpmpp_2m_step, NOISE)
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-5)


def test_ddpm_step_is_the_textbook_posterior():
    # Ho et al. (2020), Eq. 6-7: the posterior q(x_{t-1} | x_t, x_0) in its own terms
    t = 400
    betas = torch.linspace(1e-4, 0.02, 1024, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - betas, 0)
    x_t, x0, z = torch.randn(3, 7, generator=rng(5), dtype=torch.float64)
    mean = (
        alpha_bar[t - 1].sqrt() * betas[t] / (1 - alpha_bar[t]) * x0
        + (1 - betas[t]).sqrt() * (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t]) * x_t
    )
    variance = (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t]) * betas[t]
    now = Estimate(x0, SCHEDULE.noise_between(x0, x_t, t))
    found = ddpm_step(SCHEDULE, x_t, now, t, t - 1, None, draw=lambda like: z)
    torch.testing.assert_close(found, mean + variance.sqrt() * z, rtol=0, atol=1e-12)


def test_ddpm_samples_have_the_variance_of_the_data():
    # data N(0, 0.5²): the exact denoiser is linear, and so the sampler must give the data's variance back
    spread, generator = 0.5, rng(6)

    def denoise(x_t: torch.Tensor, t: int) -> Estimate:
        alpha_bar = SCHEDULE.alphas[t] ** 2
        x0 = alpha_bar.sqrt() * spread**2 / (alpha_bar * spread**2 + 1 - alpha_bar) * x_t
        return Estimate(x0, SCHEDULE.noise_between(x0, x_t, t))

    def draw(like: torch.Tensor | None = None) -> torch.Tensor:
        return torch.randn(20_000, generator=generator, dtype=torch.float64)

    found = walk(SCHEDULE, denoise, uniform_grid(SCHEDULE, 1024), ddpm_step, draw(), draw)
    assert float(found.std()) == pytest.approx(spread, rel=0.02)


def test_last_step_of_every_solver_is_the_estimate():
    x_t, x0, eps = torch.randn(3, 4, generator=rng(8), dtype=torch.float64)
    for solver in SOLVERS.values():
        found = solver.step(SCHEDULE, x_t, Estimate(x0, eps), 0, CLEAN, (5, Estimate(eps, eps)), draw=None)
        torch.testing.assert_close(found, x0, rtol=0, atol=1e-12)
