"""Noise schedules: how a clean image x₀ and Gaussian noise ε make x_t = α_t x₀ + σ_t ε, and the way back.

Timesteps are 0-based: t = 0 … T − 1 here is t = 1 … T in the paper. `CLEAN` (−1) stands for the paper's
t = 0, where α = 1 and nothing is left of the noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from pig_monai.errors import PigError

CLEAN = -1

Prediction = Literal["epsilon", "v", "sample", "flow", "flow_sample"]

_SAMPLES: tuple[Prediction, ...] = ("sample", "flow_sample")

MAX_WEIGHT = 20.0
"""The most that an error of the clean image is weighted, see `Schedule.error_weight`."""


class Schedule:
    """The scales α_t (of the image) and σ_t (of the noise) at every timestep.

    They are kept in float64 and every product is formed in the dtype of the image (float32 or float64, never
    less), because σ₀² = 1e-4 vanishes beside 1 in half precision.

    Args:
        alphas: (T,) float64, falling.
        sigmas: (T,) float64, rising.

    Raises:
        PigError: T is below 2.
    """

    predictions: tuple[Prediction, ...] = ()
    """What a network of this schedule may be trained to predict."""

    def __init__(self, alphas: Tensor, sigmas: Tensor) -> None:
        self.num_train_timesteps = len(alphas)
        # The appended values are those of the clean image: index −1, that is CLEAN, finds them.
        self.alphas = torch.cat([alphas, torch.ones(1, dtype=torch.float64)])
        self.sigmas = torch.cat([sigmas, torch.zeros(1, dtype=torch.float64)])

    def to_dict(self) -> dict[str, Any]:
        """Return what `schedule_from_dict` builds the same schedule from: plain values for a checkpoint's meta."""
        raise NotImplementedError

    def scales(self, t: int | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return α_t and σ_t, shaped to multiply ``like``.

        Args:
            t: one timestep for all, or (B,) int64 with one for each image; in [0, T) or `CLEAN`.
            like: images (B, …); their device and dtype are used.
        """
        index = torch.as_tensor(t, device="cpu")
        shape = (2, -1, *[1] * (like.ndim - 1))
        scales = torch.stack([self.alphas[index], self.sigmas[index]]).reshape(shape).to(like.device, like.dtype)
        return scales[0], scales[1]

    def half_log_snr(self, t: int) -> float:
        """Return λ_t = ln(α_t / σ_t); infinite at `CLEAN`, minus infinity where nothing is left of the image."""
        return float((self.alphas[t] / self.sigmas[t]).log())

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x_t = α_t x₀ + σ_t ε (Eq. 3, 9, 10); all images (B, C, W, H), t (B,)."""
        alpha, sigma = self.scales(t, x0)
        return alpha * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor, prediction: Prediction) -> Tensor:
        """Return what the network is trained to predict.

        ε (the paper); v = α_t ε − σ_t x₀; the sample x₀; or, on a rectified flow, the velocity x₀ − ε or x₀.
        """
        if prediction == "epsilon":
            return noise
        if prediction in _SAMPLES:
            return x0
        if prediction == "flow":
            return x0 - noise
        alpha, sigma = self.scales(t, x0)
        return alpha * noise - sigma * x0

    def error_weight(self, t: Tensor, like: Tensor, prediction: Prediction) -> Tensor | None:
        """Return what a network's squared error is weighted with, shaped to multiply ``like``; None for 1.

        An error of x̂₀ counts as the error of the v, or of the velocity, that follows from it: 1 / σ_t² (the
        SNR + 1 weighting of Salimans & Ho, arXiv 2202.00512), but no more than `MAX_WEIGHT`: where hardly any
        noise is left, x̂₀ would have to be exact to a hundredth, and nothing would be learnt but that.
        """
        if prediction not in _SAMPLES:
            return None
        _, sigma = self.scales(t, like)
        return (1 / sigma.square()).clamp(max=MAX_WEIGHT)

    def estimates(
        self, output: Tensor, x_t: Tensor, t: int | Tensor, prediction: Prediction
    ) -> tuple[Tensor, Tensor]:
        """Turn a network's output at x_t into (x̂₀, ε̂): the clean image (Eq. 6) and the noise."""
        alpha, sigma = self.scales(t, x_t)
        if prediction == "epsilon":
            return (x_t - sigma * output) / alpha, output
        if prediction in _SAMPLES:
            return output, self.noise_between(output, x_t, t)
        if prediction == "flow":  # α + σ = 1
            return x_t + sigma * output, x_t - alpha * output
        return alpha * x_t - sigma * output, sigma * x_t + alpha * output  # α² + σ² = 1

    def noise_between(self, x0: Tensor, x_t: Tensor, t: int | Tensor) -> Tensor:
        """Return the ε that leads from x₀ to x_t; used after x̂₀ was clamped, so that both still agree."""
        alpha, sigma = self.scales(t, x_t)
        return (x_t - alpha * x0) / sigma


class NoiseSchedule(Schedule):
    """Linear β schedule of the paper (section 3.1): α_t = √ᾱ_t, σ_t = √(1 − ᾱ_t), β from 1e-4 to 0.02.

    Args:
        num_train_timesteps: T, at least 2.
        beta_start: β₁, in (0, 1).
        beta_end: β_T, in [β₁, 1).

    Raises:
        PigError: a value outside its range.
    """

    predictions = ("epsilon", "v", "sample")

    def __init__(self, num_train_timesteps: int = 1024, beta_start: float = 1e-4, beta_end: float = 0.02) -> None:
        _check_timesteps(num_train_timesteps)
        if not 0 < beta_start <= beta_end < 1:
            raise PigError(
                f"beta_start is {beta_start} and beta_end is {beta_end}",
                "give 0 < beta_start <= beta_end < 1",
            )
        self.beta_start = beta_start
        self.beta_end = beta_end
        betas = torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float64)
        alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        super().__init__(alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt())

    def to_dict(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "num_train_timesteps": self.num_train_timesteps,
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
        }


class RectifiedFlow(Schedule):
    """The straight path from the image to noise, x_t = (1 − s) x₀ + s ε with s = (t + 1) / T (arXiv 2209.03003).

    The last timestep is pure noise. A DDIM step is the Euler step of the flow's equation dx/ds = ε̂ − x̂₀.

    Args:
        num_train_timesteps: T, at least 2.
    """

    predictions = ("flow", "flow_sample")

    def __init__(self, num_train_timesteps: int = 1024) -> None:
        _check_timesteps(num_train_timesteps)
        share = torch.arange(1, num_train_timesteps + 1, dtype=torch.float64) / num_train_timesteps
        super().__init__(1 - share, share)

    def to_dict(self) -> dict[str, Any]:
        """Return the constructor's argument and what kind of schedule it is."""
        return {"kind": "rectified_flow", "num_train_timesteps": self.num_train_timesteps}


def _check_timesteps(num_train_timesteps: int) -> None:
    if num_train_timesteps < 2:
        raise PigError(f"num_train_timesteps is {num_train_timesteps}", "give at least 2")


def make_schedule(
    prediction: str, num_train_timesteps: int = 1024, beta_start: float = 1e-4, beta_end: float = 0.02
) -> Schedule:
    """Return the schedule that a prediction belongs to: a rectified flow for ``flow…``, else the paper's.

    Raises:
        PigError: an unknown prediction, or a value outside its range.
    """
    schedule: Schedule
    if prediction in RectifiedFlow.predictions:
        schedule = RectifiedFlow(num_train_timesteps)
    else:
        schedule = NoiseSchedule(num_train_timesteps, beta_start, beta_end)
        check_prediction(prediction, schedule)
    return schedule


def schedule_from_dict(described: Mapping[str, Any]) -> Schedule:
    """Build a schedule from what its ``to_dict`` returned.

    Raises:
        TypeError: arguments that no schedule takes.
    """
    arguments = dict(described)
    kind = arguments.pop("kind", "linear_beta")
    if kind not in ("linear_beta", "rectified_flow"):
        raise TypeError(f"unknown kind of schedule {kind!r}")
    return RectifiedFlow(**arguments) if kind == "rectified_flow" else NoiseSchedule(**arguments)


def check_prediction(prediction: str, schedule: Schedule) -> None:
    """Refuse a prediction type that is unknown or belongs to another schedule."""
    if prediction not in schedule.predictions:
        raise PigError(f"prediction is {prediction!r}", "give epsilon, v, sample, flow or flow_sample")
