"""What the networks make of a few slices so far: pictures from fixed noise, to see them sharpen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from pig_monai.choosing import spread_evenly
from pig_monai.diffusion.noise import PairNoise, Purpose
from pig_monai.diffusion.sampling import Denoiser, KnownImage, Predictor, sample_jointly, sample_pairs
from pig_monai.diffusion.schedule import Prediction, Schedule
from pig_monai.diffusion.solvers import find_solver
from pig_monai.diffusion.training import masks_to_diffusion
from pig_monai.pictures import contact_sheet, magnification
from pig_monai.spaces import Space
from pig_monai.training.pictures import Pictures

SHOWN = 6
TILE = 192  # pixels a side, about
SEED = 0

Items = Sequence[Mapping[str, Tensor]]


class Previews(Pictures):
    """What a guider or a generator makes of a few slices.

    A guider is shown true slices, a generator true masks, of the held-out fold where there is one; a generator in
    training beside its guider makes whole pairs, and so does a joint net of mask and slice. The upper row has the
    true slices with their masks outlined, the lower row what was generated: the guider's mask on the true slice,
    or the generated slice with the mask it was made for. Estimates are kept in [−1, 1], as sampling does by
    default.

    Args:
        folder: for the pictures.
        role: ``guider``, ``generator``, or ``joint`` for a generator that is the one net of mask and slice.
        ema: the averaged weights.
        schedule: the noise schedule.
        prediction: what the network predicts.
        heldout: slices of the held-out fold; may be empty.
        training: slices of the training, shown where none is held out.
        guider: of the generator's pairs, if any.
        space: where the networks work, and the slices of ``heldout`` and ``training`` are.
        amp: bfloat16 autocast.
        device: where to sample.
        interval: iterations between two pictures; 0 draws none.
    """

    def __init__(
        self,
        folder: str | Path,
        role: str,
        ema: AveragedModel,
        schedule: Schedule,
        prediction: Prediction,
        heldout: Items,
        training: Items,
        guider: Denoiser | None,
        space: Space,
        amp: bool,
        device: torch.device | str,
        interval: int,
    ) -> None:
        super().__init__(folder, interval)
        self.role = role
        clamp = space.bounded or role == "guider"
        self.network = Denoiser(ema.module, schedule, prediction, clamp=clamp, amp=amp)
        self.space = space
        self.schedule = schedule
        self.items = heldout if len(heldout) else training
        self.guider = guider
        self.device = device

    def draw(self) -> Image.Image:
        """Sample with the present weights and lay the result out below the truth."""
        shown = spread_evenly(self.items, SHOWN)
        slices = torch.stack([item["image"] for item in shown])
        masks = masks_to_diffusion(torch.stack([item["label"] for item in shown]))
        if "spacing" in shown[0]:
            self.network.spacing = torch.stack([item["spacing"] for item in shown])
        masks_made, slices_made = self._sample(masks.to(self.device), slices.to(self.device))
        true_slices, true_masks = self._decoded(slices, masks)
        made, outlines = self._decoded(slices if self.role == "guider" else slices_made, masks_made)
        return contact_sheet(
            [*true_slices, *made],
            [*true_masks, *outlines],
            columns=len(shown),
            scale=magnification(TILE, true_slices[0].shape[-1]),
        )

    def _decoded(self, slices: Tensor, masks: Tensor) -> tuple[list[np.ndarray], list[np.ndarray]]:
        pictures = self.space.decode_slices(slices.to(self.device)).float().cpu().numpy()[:, 0]
        return list(pictures), list((self.space.decode_masks(masks) > 0).cpu().numpy()[:, 0])

    def _sample(self, masks: Tensor, slices: Tensor) -> tuple[Tensor, Tensor]:
        solver = find_solver("dpmpp_2m")
        grid = solver.timesteps(self.schedule, None)
        noise = PairNoise(SEED, range(len(masks)), self.device, Purpose.PREVIEW)
        x_T, y_T = noise.draw(*masks.shape[1:]), noise.draw(*slices.shape[1:])
        self.network.network.eval()
        if self.role == "joint":
            return sample_jointly(self.network, self.schedule, grid, solver.step, x_T, y_T, noise)
        predict_mask: Predictor = self.guider or KnownImage(masks, self.schedule)
        predict_slice: Predictor = self.network
        if self.role == "guider":
            predict_mask, predict_slice = self.network, KnownImage(slices, self.schedule)
        return sample_pairs(predict_mask, predict_slice, self.schedule, grid, solver.step, x_T, y_T, draw=noise)
