"""A distribution whose denoiser is known exactly: a Gaussian mixture in 64 dimensions."""

from __future__ import annotations

import torch
from torch import Tensor

from pig_monai.diffusion.grids import Grid
from pig_monai.diffusion.schedule import NoiseSchedule
from pig_monai.diffusion.solvers import Before, Estimate, Step


def rng(seed: int) -> torch.Generator:
    """A seeded generator for a test's own numbers."""
    return torch.Generator().manual_seed(seed)


class GaussianMixture:
    """Eight modes at scale 0.5 in 64 dimensions, each N(μ, σ² I); everything in float64."""

    def __init__(self, schedule: NoiseSchedule, sigma: float) -> None:
        self.schedule = schedule
        self.sigma = sigma
        self.means = 0.5 * torch.randn(8, 64, generator=rng(7), dtype=torch.float64)

    def __call__(self, x_t: Tensor, t: int) -> Estimate:
        """Return E[x₀ | x_t] and E[ε | x_t], by Bayes' rule over the modes."""
        alpha_bar = self.schedule.alphas_cumprod[t]
        alpha, variance = alpha_bar.sqrt(), alpha_bar * self.sigma**2 + 1 - alpha_bar
        distance = x_t[:, None] - alpha * self.means
        weight = torch.softmax(-(distance**2).sum(-1) / (2 * variance), dim=1)
        x0_of_mode = self.means + alpha * self.sigma**2 / variance * distance
        x0 = (weight[..., None] * x0_of_mode).sum(1)
        return Estimate(x0, (x_t - alpha * x0) / (1 - alpha_bar).sqrt())


def walk(schedule: NoiseSchedule, denoise, grid: Grid, step: Step, x: Tensor, draw=None) -> Tensor:
    """Sample one stream: the plain reverse process with a known denoiser."""
    before: Before | None = None
    for t, t_next in grid:
        now = denoise(x, t)
        x = step(schedule, x, now, t, t_next, before, draw)
        before = (t, now)
    return x
