"""Solver steps: from x_t and the estimates (x̂₀, ε̂) at t to x at t_next.

Every solver is a function with one signature, so that the loops know only `Step`. Where t_next is clean,
each of them returns x̂₀.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from pig_monai.diffusion.grids import Grid, lambda_grid, uniform_grid
from pig_monai.diffusion.schedule import CLEAN, NoiseSchedule, Schedule
from pig_monai.errors import PigError


class Estimate(NamedTuple):
    """What a network says of x_t: the clean image x̂₀ and the noise ε̂, both (B, C, W, H)."""

    x0: Tensor
    eps: Tensor


Before = tuple[int, Estimate]
"""The timestep and the estimate of the step before."""


Draw = Callable[[Tensor], Tensor]
"""Returns fresh standard normal noise of the shape and on the device of its argument."""


class Step(Protocol):
    """One solver step from ``t`` to ``t_next``."""

    def __call__(
        self,
        schedule: Schedule,
        x_t: Tensor,
        now: Estimate,
        t: int,
        t_next: int,
        before: Before | None,
        draw: Draw,
    ) -> Tensor:
        """Return x at ``t_next``, (B, C, W, H).

        Args:
            schedule: the noise schedule.
            x_t: the current state, (B, C, W, H).
            now: the estimates at ``t``.
            t: the current timestep.
            t_next: where to go; `CLEAN` for the last step.
            before: timestep and estimates of the step before; None on the first one.
            draw: called with ``x_t``, returns fresh standard normal noise of its shape.
        """


def ddim_step(
    schedule: Schedule,
    x_t: Tensor,
    now: Estimate,
    t: int,
    t_next: int,
    before: Before | None,
    draw: Draw,
) -> Tensor:
    """DDIM with σ = 0: Eq. (7) of the paper, the update of Algorithm 2; Euler's step on a rectified flow."""
    alpha_next, sigma_next = schedule.scales(t_next, x_t)
    return alpha_next * now.x0 + sigma_next * now.eps


def ddpm_step(
    schedule: Schedule,
    x_t: Tensor,
    now: Estimate,
    t: int,
    t_next: int,
    before: Before | None,
    draw: Draw,
) -> Tensor:
    """Ancestral sampling (DDPM): Eq. (7) with the posterior's variance σ² = (1−ᾱ')/(1−ᾱ) · (1−ᾱ/ᾱ')."""
    alpha_bar, alpha_bar_next = (float(schedule.alphas[s]) ** 2 for s in (t, t_next))
    variance = (1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next)
    mean = math.sqrt(alpha_bar_next) * now.x0 + math.sqrt(1 - alpha_bar_next - variance) * now.eps
    return mean if t_next == CLEAN else mean + math.sqrt(variance) * draw(x_t)


def dpmpp_2m_step(
    schedule: Schedule,
    x_t: Tensor,
    now: Estimate,
    t: int,
    t_next: int,
    before: Before | None,
    draw: Draw,
) -> Tensor:
    """DPM-Solver++(2M), second-order multistep on x̂₀ (arXiv 2211.01095, Algorithm 2)."""
    if t_next == CLEAN:
        return now.x0
    alpha_next, sigma_next = schedule.scales(t_next, x_t)
    _, sigma = schedule.scales(t, x_t)
    h = schedule.half_log_snr(t_next) - schedule.half_log_snr(t)
    x0 = now.x0
    if before is not None:
        t_before, earlier = before
        h_before = schedule.half_log_snr(t) - schedule.half_log_snr(t_before)
        x0 = x0 + (x0 - earlier.x0) * (h / (2 * h_before))
    return sigma_next / sigma * x_t - alpha_next * math.expm1(-h) * x0


@dataclass(frozen=True)
class Solver:
    """A solver step with the grid it walks.

    Args:
        step: the step function.
        grid: makes the timestep grid for a number of steps.
        default_steps: the number of steps where the user names none, at most T; None stands for all T.
        markov: whether it walks the β schedule's Markov chain, which a rectified flow has not.
    """

    step: Step
    grid: Callable[[Schedule, int], Grid]
    default_steps: int | None
    markov: bool = False

    def timesteps(self, schedule: Schedule, num_steps: int | None = None) -> Grid:
        """Return the grid of ``num_steps`` steps, or of the solver's default number.

        Raises:
            PigError: a number of steps outside the grid's range, or a schedule that the solver cannot walk.
        """
        if self.markov and not isinstance(schedule, NoiseSchedule):
            raise PigError(
                "solver ddpm does not fit weights trained with prediction flow", "give ddim or dpmpp_2m"
            )
        if num_steps is None:
            num_steps = min(self.default_steps or schedule.num_train_timesteps, schedule.num_train_timesteps)
        return self.grid(schedule, num_steps)


SOLVERS: dict[str, Solver] = {
    "ddim": Solver(ddim_step, uniform_grid, default_steps=256),
    "ddpm": Solver(ddpm_step, uniform_grid, default_steps=None, markov=True),
    "dpmpp_2m": Solver(dpmpp_2m_step, lambda_grid, default_steps=25),
}


def find_solver(name: str) -> Solver:
    """Return the solver of that name.

    Raises:
        PigError: there is none.
    """
    if name not in SOLVERS:
        raise PigError(f"solver is {name!r}", f"give one of {', '.join(SOLVERS)}")
    return SOLVERS[name]
