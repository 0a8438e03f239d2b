"""Algorithm 2: masks and slices denoise in lockstep, each guiding the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pig_monai.diffusion.grids import Grid
from pig_monai.diffusion.schedule import NoiseSchedule, Prediction
from pig_monai.diffusion.solvers import Before, Estimate, Step


class Predictor(Protocol):
    """Predicts the clean image and the noise in ``noisy`` at timestep ``t``, given a condition."""

    def __call__(self, noisy: Tensor, condition: Tensor, t: int) -> Estimate:
        """Return the estimates for ``noisy`` (B, C, W, H); ``condition`` has the same shape."""


@dataclass
class Denoiser:
    """A network as a `Predictor`: the condition is concatenated to the noisy image as a channel.

    Args:
        network: takes (B, 2, W, H) and timesteps (B,), returns (B, 1, W, H).
        schedule: the noise schedule it was trained with.
        prediction: what it was trained to predict.
        clamp: keep x̂₀ in [−1, 1], with ε̂ re-derived so that both still agree with x_t.
        amp: run the network in bfloat16 autocast; everything around it stays in float32.
        one_at_a_time: let images go through the network one after the other. Convolutions choose their algorithm
            by the batch size and differ in the last bits; one at a time, an image has the same bits in any batch.
    """

    network: nn.Module
    schedule: NoiseSchedule
    prediction: Prediction
    clamp: bool = True
    amp: bool = False
    one_at_a_time: bool = False

    def __call__(self, noisy: Tensor, condition: Tensor, t: int | Tensor) -> Estimate:
        """Return the estimates of x₀ and ε; ``t`` is one timestep, or (B,) with one for each image."""
        timesteps = torch.as_tensor(t, device=noisy.device).expand(len(noisy))
        inputs = torch.cat([noisy, condition], dim=1)
        output = self._run(inputs.to(memory_format=torch.channels_last), timesteps)
        x0, eps = self.schedule.estimates(output.to(noisy.dtype), noisy, t, self.prediction)
        if self.clamp:
            x0 = x0.clamp(-1, 1)
            eps = self.schedule.noise_between(x0, noisy, t)
        return Estimate(x0, eps)

    def _run(self, inputs: Tensor, timesteps: Tensor) -> Tensor:
        parts = (
            zip(inputs.split(1), timesteps.split(1), strict=True) if self.one_at_a_time else [(inputs, timesteps)]
        )
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=self.amp):
            return torch.cat([self.network(*part) for part in parts])


class OnStep(Protocol):
    """Is told the estimates of every step: a film strip, a progress bar."""

    def __call__(self, index: int, mask: Estimate, slice_: Estimate) -> None:
        """Take step ``index`` (0 is the noisiest)."""


@torch.inference_mode()
def sample_pairs(
    predict_mask: Predictor,
    predict_slice: Predictor,
    schedule: NoiseSchedule,
    grid: Grid,
    step: Step,
    x_T: Tensor,
    y_T: Tensor,
    draw: Callable[[], Tensor],
    condition: Callable[[Tensor], Tensor] | None = None,
    on_step: OnStep | None = None,
) -> tuple[Tensor, Tensor]:
    """Sample (mask, slice) pairs with the paired reverse process (Algorithm 2).

    Line by line: the guider estimates x̂₀ from (x_t, y_t); x̂₀ of the same step conditions the generator,
    which estimates ŷ₀ from (y_t, x̂₀); both states take a solver step. Only the current states and the last
    estimates are held, whatever the number of steps.

    Args:
        predict_mask: the guider, model_x; called as (x_t, y_t, t).
        predict_slice: the generator, model_y; called as (y_t, x̂₀, t).
        schedule: the noise schedule.
        grid: the timesteps to walk.
        step: the solver step; each of the two streams has its own history.
        x_T: mask noise, (B, 1, W, H).
        y_T: slice noise, (B, 1, W, H).
        draw: fresh noise for solvers that add some, drawn for the mask and then for the slice.
        condition: makes what the generator is shown of x̂₀, such as `binarise`; None shows it as it is.
        on_step: is told the estimates of each step.

    Returns:
        x̂₀ (masks, −1 … +1, not yet binary) and ŷ₀ (slices), both (B, 1, W, H).
    """
    x, y = x_T, y_T
    mask_before: Before | None = None
    slice_before: Before | None = None
    for index, (t, t_next) in enumerate(grid):
        mask = predict_mask(x, y, t)
        slice_ = predict_slice(y, mask.x0 if condition is None else condition(mask.x0), t)
        x = step(schedule, x, mask, t, t_next, mask_before, draw)
        y = step(schedule, y, slice_, t, t_next, slice_before, draw)
        mask_before, slice_before = (t, mask), (t, slice_)
        if on_step is not None:
            on_step(index, mask, slice_)
    return x, y


def binarise(x0: Tensor) -> Tensor:
    """Return x̂₀ as −1 / +1 after a 5 × 5 mean, as the authors' configuration shows it to the generator.

    The threshold is 0, an absolute one; theirs, ¾ max + ¼ min of each sample, finds a lesion in every mask.
    """
    smooth = F.avg_pool2d(x0.clamp(-1, 1), kernel_size=5, stride=1, padding=2, count_include_pad=False)
    return torch.where(smooth > 0, 1.0, -1.0).to(x0.dtype)
