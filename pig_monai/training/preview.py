"""What the networks make of a few slices so far: pictures from fixed noise, to see them sharpen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from pig_monai.diffusion.noise import PairNoise, Purpose
from pig_monai.diffusion.sampling import Denoiser, Predictor, sample_pairs
from pig_monai.diffusion.schedule import NoiseSchedule, Prediction
from pig_monai.diffusion.solvers import Estimate, find_solver
from pig_monai.diffusion.training import masks_to_diffusion
from pig_monai.pictures import contact_sheet, magnification
from pig_monai.training.pictures import Pictures

SHOWN = 6
TILE = 192  # pixels a side, about
SEED = 0

Items = Sequence[Mapping[str, Tensor]]


class KnownImage:
    """A predictor that knows the clean images: beside it, the other network is sampled alone.

    Args:
        x0: the clean images, (B, 1, W, H).
        schedule: the noise schedule.
    """

    def __init__(self, x0: Tensor, schedule: NoiseSchedule) -> None:
        self.x0 = x0
        self.schedule = schedule

    def __call__(self, noisy: Tensor, condition: Tensor, t: int) -> Estimate:
        """Return the truth, and the noise that leads from it to ``noisy``."""
        return Estimate(self.x0, self.schedule.noise_between(self.x0, noisy, t))


class Previews(Pictures):
    """What a guider or a generator makes of a few slices.

    A guider is shown true slices, a generator true masks, of the held-out fold where there is one; a generator in
    training beside its guider makes whole pairs. The upper row has the true slices with their masks outlined, the
    lower row what was generated: the guider's mask on the true slice, or the generated slice with the mask it was
    made for. Estimates are kept in [−1, 1], as sampling does by default.

    Args:
        folder: for the pictures.
        role: ``guider`` or ``generator``.
        ema: the averaged weights.
        schedule: the noise schedule.
        prediction: what the network predicts.
        heldout: slices of the held-out fold; may be empty.
        training: slices of the training, shown where none is held out.
        guider: of the generator's pairs, if any.
        amp: bfloat16 autocast.
        device: where to sample.
        interval: iterations between two pictures; 0 draws none.
    """

    def __init__(
        self,
        folder: str | Path,
        role: str,
        ema: AveragedModel,
        schedule: NoiseSchedule,
        prediction: Prediction,
        heldout: Items,
        training: Items,
        guider: Denoiser | None,
        amp: bool,
        device: torch.device | str,
        interval: int,
    ) -> None:
        super().__init__(folder, interval)
        self.role = role
        self.network = Denoiser(ema.module, schedule, prediction, amp=amp)
        self.schedule = schedule
        self.items = heldout if len(heldout) else training
        self.guider = guider
        self.device = device

    def draw(self) -> Image.Image:
        """Sample with the present weights and lay the result out below the truth."""
        count = min(SHOWN, len(self.items))
        shown = [self.items[number * len(self.items) // count] for number in range(count)]
        slices = torch.stack([item["image"] for item in shown])
        masks = masks_to_diffusion(torch.stack([item["label"] for item in shown]))
        masks_made, slices_made = self._sample(masks.to(self.device), slices.to(self.device))
        made = slices if self.role == "guider" else slices_made.clamp(-1, 1)
        tiles = [*_arrays(slices), *_arrays(made)]
        outlines = [*_arrays(masks > 0), *_arrays(masks_made > 0)]
        return contact_sheet(tiles, outlines, columns=count, scale=magnification(TILE, slices.shape[-1]))

    def _sample(self, masks: Tensor, slices: Tensor) -> tuple[Tensor, Tensor]:
        predict_mask: Predictor = self.guider or KnownImage(masks, self.schedule)
        predict_slice: Predictor = self.network
        if self.role == "guider":
            predict_mask, predict_slice = self.network, KnownImage(slices, self.schedule)
        solver = find_solver("dpmpp_2m")
        noise = PairNoise(SEED, range(len(masks)), masks.shape[1:], self.device, Purpose.PREVIEW)
        self.network.network.eval()
        return sample_pairs(
            predict_mask,
            predict_slice,
            self.schedule,
            solver.timesteps(self.schedule, None),
            solver.step,
            x_T=noise(),
            y_T=noise(),
            draw=noise,
        )


def _arrays(images: Tensor) -> list[np.ndarray]:
    return list(images[:, 0].cpu().float().numpy() if images.is_floating_point() else images[:, 0].cpu().numpy())
