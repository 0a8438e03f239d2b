"""Algorithm 2: masks and slices denoise in lockstep, each guiding the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pig_monai.diffusion.grids import Grid
from pig_monai.diffusion.schedule import Prediction, Schedule
from pig_monai.diffusion.solvers import Before, Draw, Estimate, Step


class Predictor(Protocol):
    """Predicts the clean image and the noise in ``noisy`` at timestep ``t``, given a condition."""

    def __call__(self, noisy: Tensor, condition: Tensor, t: int) -> Estimate:
        """Return the estimates for ``noisy`` (B, C, W, H), given ``condition`` (B, C', W, H)."""


@dataclass
class Denoiser:
    """A network of `pig_monai.generators` as a `Predictor`.

    Args:
        network: called as (noisy, timesteps (B,), condition, spacing); returns the shape of ``noisy``.
        schedule: the noise schedule it was trained with.
        prediction: what it was trained to predict.
        clamp: keep x̂₀ in [−1, 1], with ε̂ re-derived so that both still agree with x_t.
        amp: run the network in bfloat16 autocast; everything around it stays in float32.
        one_at_a_time: let images go through the network one after the other. Convolutions choose their algorithm
            by the batch size and differ in the last bits; one at a time, an image has the same bits in any batch.
        spacing: (2,), mm a pixel in x and y, 0 where unknown; None for networks that do not ask for it.
        guidance: w of classifier-free guidance (arXiv 2207.12598): output of nothing known + w · (output of the
            condition − that of nothing known). 1 is the network's own output, at half the cost of any other.
    """

    network: nn.Module
    schedule: Schedule
    prediction: Prediction
    clamp: bool = True
    amp: bool = False
    one_at_a_time: bool = False
    spacing: Tensor | None = None
    guidance: float = 1.0

    def __call__(self, noisy: Tensor, condition: Tensor, t: int | Tensor) -> Estimate:
        """Return the estimates of x₀ and ε; ``t`` is one timestep, or (B,) with one for each image."""
        timesteps = torch.as_tensor(t, device=noisy.device).expand(len(noisy))
        output = self._run(noisy, timesteps, condition)
        if self.guidance != 1:
            unguided = self._run(noisy, timesteps, torch.zeros_like(condition))
            output = unguided + self.guidance * (output - unguided)
        x0, eps = self.schedule.estimates(output, noisy, t, self.prediction)
        if self.clamp:
            x0 = x0.clamp(-1, 1)
            eps = self.schedule.noise_between(x0, noisy, t)
        return Estimate(x0, eps)

    def _run(self, noisy: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        spacing = None if self.spacing is None else self.spacing.to(noisy).expand(len(noisy), 2)
        size = 1 if self.one_at_a_time else len(noisy)
        with torch.autocast(noisy.device.type, dtype=torch.bfloat16, enabled=self.amp):
            outputs = [
                self.network(
                    noisy[part], timesteps[part], condition[part], None if spacing is None else spacing[part]
                )
                for part in (slice(start, start + size) for start in range(0, len(noisy), size))
            ]
        return torch.cat(outputs).to(noisy.dtype)


@dataclass
class KnownImage:
    """A predictor that knows the clean images: beside it, the other network is sampled alone.

    Args:
        x0: the clean images, (B, C, W, H).
        schedule: the noise schedule.
    """

    x0: Tensor
    schedule: Schedule

    def __call__(self, noisy: Tensor, condition: Tensor, t: int) -> Estimate:
        """Return the truth, and the noise that leads from it to ``noisy``."""
        return Estimate(self.x0, self.schedule.noise_between(self.x0, noisy, t))


class OnStep(Protocol):
    """Is told the estimates of every step: a film strip, a progress bar."""

    def __call__(self, index: int, mask: Estimate, slice_: Estimate) -> None:
        """Take step ``index`` (0 is the noisiest)."""


@torch.inference_mode()
def sample_pairs(
    predict_mask: Predictor,
    predict_slice: Predictor,
    schedule: Schedule,
    grid: Grid,
    step: Step,
    x_T: Tensor,
    y_T: Tensor,
    draw: Draw,
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
        x_T: mask noise, (B, C, W, H).
        y_T: slice noise, (B, C', W, H); in a latent space, the latent's channels on the latent's grid.
        draw: returns fresh noise like its argument, for solvers that add some: first to the mask.
        condition: makes what the generator is shown of x̂₀, such as `binarise`; None shows it as it is.
        on_step: is told the estimates of each step.

    Returns:
        x̂₀ (masks, −1 … +1, not yet binary) and ŷ₀ (slices or their latents), shaped as x_T and y_T.
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


def sample_jointly(
    predict_pair: Predictor,
    schedule: Schedule,
    grid: Grid,
    step: Step,
    x_T: Tensor,
    y_T: Tensor,
    draw: Draw,
    on_step: OnStep | None = None,
) -> tuple[Tensor, Tensor]:
    """Sample (mask, slice) pairs without guidance: one network denoises both, as the channels of one image.

    Args:
        predict_pair: called as (mask's and slice's channels at t, zeros, t).
        x_T: mask noise, (B, C, W, H).
        y_T: slice noise, (B, C', W, H).
        schedule: see `sample_pairs`, as of the other arguments.
        grid: see there.
        step: see there.
        draw: see there.
        on_step: see there; it is told of mask and slice apart.

    Returns:
        x̂₀ and ŷ₀, shaped as x_T and y_T.
    """
    channels = [x_T.shape[1], y_T.shape[1]]
    nothing = torch.zeros_like(x_T)

    def tell(index: int, mask: Estimate, slice_: Estimate) -> None:
        if on_step is not None:
            (x0, y0), (eps_1, eps_2) = (both.split(channels, dim=1) for both in slice_)
            on_step(index, Estimate(x0, eps_1), Estimate(y0, eps_2))

    _, z0 = sample_pairs(
        KnownImage(nothing, schedule),
        predict_pair,
        schedule,
        grid,
        step,
        nothing,
        torch.cat([x_T, y_T], dim=1),
        draw,
        on_step=tell,
    )
    x0, y0 = z0.split(channels, dim=1)
    return x0, y0


def binarise(x0: Tensor) -> Tensor:
    """Return x̂₀ as −1 / +1 after a 5 × 5 mean, as the authors' configuration shows it to the generator.

    The threshold is 0, an absolute one; theirs, ¾ max + ¼ min of each sample, finds a lesion in every mask.
    """
    smooth = F.avg_pool2d(x0.clamp(-1, 1), kernel_size=5, stride=1, padding=2, count_include_pad=False)
    return torch.where(smooth > 0, 1.0, -1.0).to(x0.dtype)
