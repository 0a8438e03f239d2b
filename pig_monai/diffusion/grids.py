"""Timestep grids: the pairs (t, t_next) that a sampler walks, from pure noise to the clean image.

A solver step is told both ends. Nothing is derived from T // n, so a step always lands on the noise level
that the next step starts from, whether or not T is divisible by the number of steps.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from pig_monai.diffusion.schedule import CLEAN, Schedule
from pig_monai.errors import PigError

Grid = list[tuple[int, int]]


def uniform_grid(schedule: Schedule, num_steps: int) -> Grid:
    """Return the paper's grid, uniform in t: 0-based 1023, 1019, …, 3, then clean, for T = 1024 in 256 steps.

    Args:
        schedule: gives T.
        num_steps: 1 … T.
    """
    T = schedule.num_train_timesteps
    _check(num_steps, 1, T)
    return list(pairwise(round(T * (num_steps - k) / num_steps) - 1 for k in range(num_steps + 1)))


def lambda_grid(schedule: Schedule, num_steps: int) -> Grid:
    """Return a grid uniform in λ (half the log signal-to-noise ratio) from T − 1 down to 0, then clean.

    A second-order multistep solver extrapolates in λ, so even steps in λ keep it accurate near t = 0, where
    even steps in t are huge in λ. Times are rounded to distinct integers: where λ asks for the same integer
    twice (near t = 0), the earlier step moves up.

    Args:
        schedule: gives λ and T.
        num_steps: 2 … T.
    """
    T = schedule.num_train_timesteps
    _check(num_steps, 2, T)
    lambdas = torch.tensor([schedule.half_log_snr(t) for t in range(T)], dtype=torch.float64)
    if lambdas[-1].isinf():  # pure noise, at λ = −∞, is given a place just before its neighbour
        lambdas[-1] = lambdas[-2] - 1
    wanted = torch.linspace(float(lambdas[-1]), float(lambdas[0]), num_steps, dtype=torch.float64)
    nearest = (lambdas[None, :] - wanted[:, None]).abs().argmin(dim=1).tolist()
    times = [0]
    for t in reversed(nearest[:-1]):
        times.insert(0, max(t, times[0] + 1))
    for k in range(num_steps):  # moving up must not leave the schedule: the k-th time is at most T − 1 − k
        times[k] = min(times[k], T - 1 - k)
    return list(pairwise([*times, CLEAN]))


def _check(num_steps: int, low: int, high: int) -> None:
    if not isinstance(num_steps, int) or not low <= num_steps <= high:
        raise PigError(f"num_inference_steps is {num_steps!r}", f"give a whole number from {low} to {high}")
