"""Denoisers that are known exactly: of one image, of a Gaussian, and of a Gaussian mixture in 64 dimensions."""

from __future__ import annotations

import torch
from torch import Tensor

from pig_monai.diffusion.grids import Grid
from pig_monai.diffusion.schedule import NoiseSchedule, Prediction, RectifiedFlow, Schedule
from pig_monai.diffusion.solvers import Before, Estimate, Step


def rng(seed: int) -> torch.Generator:
    """A seeded generator for a test's own numbers."""
    return torch.Generator().manual_seed(seed)


class PerfectNetwork:
    """Knows x₀, answers in the network's terms (ε, v, flow), and insists on being told the true noise level."""

    def __init__(
        self, schedule: Schedule, x0: Tensor, eps: Tensor, prediction: Prediction, deterministic: bool = True
    ) -> None:
        self.schedule, self.prediction, self.deterministic = schedule, prediction, deterministic
        self.x0, self.eps = x0, eps

    def __call__(self, x_t: Tensor, t: int) -> Estimate:
        eps = self.eps if self.deterministic else self.schedule.noise_between(self.x0, x_t, t)
        if self.deterministic:  # the walk must be where (x₀, ε) are at t, at every step
            expected = self.schedule.add_noise(self.x0, eps, torch.tensor([t]))
            torch.testing.assert_close(x_t, expected, rtol=0, atol=1e-10)
        output = self.schedule.target(self.x0, eps, torch.tensor([t]), self.prediction)
        return Estimate(*self.schedule.estimates(output, x_t, t, self.prediction))


class GaussianMixture:
    """Eight modes at scale 0.5 in 64 dimensions, each N(μ, σ² I); everything in float64."""

    def __init__(self, schedule: NoiseSchedule, sigma: float) -> None:
        self.schedule = schedule
        self.sigma = sigma
        self.means = 0.5 * torch.randn(8, 64, generator=rng(7), dtype=torch.float64)

    def __call__(self, x_t: Tensor, t: int) -> Estimate:
        """Return E[x₀ | x_t] and E[ε | x_t], by Bayes' rule over the modes."""
        alpha_bar = self.schedule.alphas[t] ** 2
        alpha, variance = alpha_bar.sqrt(), alpha_bar * self.sigma**2 + 1 - alpha_bar
        distance = x_t[:, None] - alpha * self.means
        weight = torch.softmax(-(distance**2).sum(-1) / (2 * variance), dim=1)
        x0_of_mode = self.means + alpha * self.sigma**2 / variance * distance
        x0 = (weight[..., None] * x0_of_mode).sum(1)
        return Estimate(x0, (x_t - alpha * x0) / (1 - alpha_bar).sqrt())


def walk(schedule: Schedule, denoise, grid: Grid, step: Step, x: Tensor, draw=None) -> Tensor:
    """Sample one stream: the plain reverse process with a known denoiser."""
    before: Before | None = None
    for t, t_next in grid:
        now = denoise(x, t)
        x = step(schedule, x, now, t, t_next, before, draw)
        before = (t, now)
    return x


class GaussianFlow:
    """Data N(μ, σ²), each number for itself, on a rectified flow: velocity and paths are known in closed form.

    On x_s = (1 − s) x₀ + s ε, x_s is N((1 − s) μ, (1 − s)² σ² + s²), and E[x₀ − ε | x_s] is linear in x_s. The
    flow's equation keeps (x_s − mean) / standard deviation as it is, so pure noise z ends at μ + σ z.
    """

    def __init__(self, num_train_timesteps: int, mean: Tensor, sigma: float) -> None:
        self.schedule = RectifiedFlow(num_train_timesteps)
        self.mean, self.sigma = mean, sigma

    def velocity(self, x: Tensor, t: int) -> Tensor:
        """Return E[x₀ − ε | x] by the regression of one Gaussian on another."""
        s = (t + 1) / self.schedule.num_train_timesteps
        variance = (1 - s) ** 2 * self.sigma**2 + s**2
        covariance = (1 - s) * self.sigma**2 - s
        return self.mean + covariance / variance * (x - (1 - s) * self.mean)

    def __call__(self, x: Tensor, t: int) -> Estimate:
        """Return the estimates that follow from the velocity, as from a network's output."""
        return Estimate(*self.schedule.estimates(self.velocity(x, t), x, t, "flow"))

    def end(self, noise: Tensor) -> Tensor:
        """Return where the flow's path from this noise ends."""
        return self.mean + self.sigma * noise
