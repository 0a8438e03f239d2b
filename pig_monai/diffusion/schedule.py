"""The noise schedule: how a clean image x₀ and Gaussian noise ε make x_t, and the way back.

Timesteps are 0-based: t = 0 … T − 1 here is t = 1 … T in the paper. `CLEAN` (−1) stands for the paper's
t = 0, where ᾱ = 1 and nothing is left of the noise.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from pig_monai.errors import PigError

CLEAN = -1

Prediction = Literal["epsilon", "v"]


def check_prediction(prediction: str) -> None:
    """Refuse a prediction type that is neither ``epsilon`` nor ``v``."""
    if prediction not in get_args(Prediction):
        raise PigError(f"prediction is {prediction!r}", "give epsilon or v")


class NoiseSchedule:
    """Linear β schedule of the paper (section 3.1): β from 1e-4 to 0.02 over T = 1024 steps.

    ᾱ is kept in float64 and every product is formed in the dtype of the image (float32 or float64, never
    less), because 1 − ᾱ₀ = 1e-4 vanishes in half precision.

    Args:
        num_train_timesteps: T, at least 2.
        beta_start: β₁, in (0, 1).
        beta_end: β_T, in [β₁, 1).

    Raises:
        PigError: a value outside its range.
    """

    def __init__(self, num_train_timesteps: int = 1024, beta_start: float = 1e-4, beta_end: float = 0.02) -> None:
        if num_train_timesteps < 2:
            raise PigError(f"num_train_timesteps is {num_train_timesteps}", "give at least 2")
        if not 0 < beta_start <= beta_end < 1:
            raise PigError(
                f"beta_start is {beta_start} and beta_end is {beta_end}",
                "give 0 < beta_start <= beta_end < 1",
            )
        self.num_train_timesteps = num_train_timesteps
        self.beta_start = beta_start
        self.beta_end = beta_end
        betas = torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float64)
        # The appended 1 is ᾱ of the clean image: index −1, that is CLEAN, finds it.
        self.alphas_cumprod = torch.cat([torch.cumprod(1 - betas, dim=0), torch.ones(1, dtype=torch.float64)])

    def to_dict(self) -> dict[str, float]:
        """Return the constructor's arguments, for a checkpoint's meta."""
        return {
            "num_train_timesteps": self.num_train_timesteps,
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
        }

    def scales(self, t: int | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return α_t = √ᾱ_t and σ_t = √(1 − ᾱ_t), shaped to multiply ``like``.

        Args:
            t: one timestep for all, or (B,) int64 with one for each image; in [0, T) or `CLEAN`.
            like: images (B, …); their device and dtype are used.
        """
        alpha_bar = self.alphas_cumprod[torch.as_tensor(t, device="cpu")]
        alpha_bar = alpha_bar.reshape(-1, *[1] * (like.ndim - 1))
        scales = torch.stack([alpha_bar.sqrt(), (1 - alpha_bar).sqrt()]).to(like.device, like.dtype)
        return scales[0], scales[1]

    def half_log_snr(self, t: int) -> float:
        """Return λ_t = ln(α_t / σ_t); infinite at `CLEAN`."""
        alpha_bar = self.alphas_cumprod[t]
        return float((alpha_bar / (1 - alpha_bar)).log() / 2)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x_t = √ᾱ_t x₀ + √(1 − ᾱ_t) ε (Eq. 3, 9, 10); all images (B, C, W, H), t (B,)."""
        alpha, sigma = self.scales(t, x0)
        return alpha * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor, prediction: Prediction) -> Tensor:
        """Return what the network is trained to predict: ε (the paper), or v = √ᾱ ε − √(1 − ᾱ) x₀."""
        if prediction == "epsilon":
            return noise
        alpha, sigma = self.scales(t, x0)
        return alpha * noise - sigma * x0

    def estimates(
        self, output: Tensor, x_t: Tensor, t: int | Tensor, prediction: Prediction
    ) -> tuple[Tensor, Tensor]:
        """Turn a network's output at x_t into (x̂₀, ε̂): the clean image (Eq. 6) and the noise."""
        alpha, sigma = self.scales(t, x_t)
        if prediction == "epsilon":
            return (x_t - sigma * output) / alpha, output
        return alpha * x_t - sigma * output, sigma * x_t + alpha * output

    def noise_between(self, x0: Tensor, x_t: Tensor, t: int | Tensor) -> Tensor:
        """Return the ε that leads from x₀ to x_t; used after x̂₀ was clamped, so that both still agree."""
        alpha, sigma = self.scales(t, x_t)
        return (x_t - alpha * x0) / sigma
