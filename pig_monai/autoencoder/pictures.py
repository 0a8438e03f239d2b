"""Slices beside what an autoencoder makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.optim.swa_utils import AveragedModel

from pig_monai.autoencoder.validation import Reconstruction
from pig_monai.choosing import spread_evenly
from pig_monai.pictures import contact_sheet, magnification
from pig_monai.training.pictures import Pictures
from pig_monai.training.preview import SHOWN, TILE, Items

GAIN = 4
"""Enlarges the differences that are shown."""


def comparison(
    slices: Sequence[np.ndarray], reconstructions: Sequence[np.ndarray], masks: Sequence[np.ndarray | None]
) -> Image.Image:
    """Lay out three rows: slices, reconstructions, and four times their difference on grey.

    Args:
        slices: float (W, H) in [−1, 1].
        reconstructions: of them.
        masks: bool (W, H) or None; outlined in slices and reconstructions.
    """
    apart = [GAIN * (made - true) for made, true in zip(reconstructions, slices, strict=True)]
    tiles, outlines = [*slices, *reconstructions, *apart], [*masks, *masks, *[None] * len(slices)]
    return contact_sheet(tiles, outlines, columns=len(slices), scale=magnification(TILE, slices[0].shape[0]))


class ReconstructionPictures(Pictures):
    """What the averaged weights make of a few slices (`comparison`), of the held-out fold where there is one.

    Args:
        folder: for the pictures.
        ema: the averaged weights.
        heldout: slices of the held-out fold, ``{"image": (1, W, H)}``; may be empty.
        training: slices of the training, shown where none is held out.
        inferer: runs slices through the network.
        device: where.
        interval: iterations between two pictures; 0 draws none.
    """

    def __init__(
        self,
        folder: str | Path,
        ema: AveragedModel,
        heldout: Items,
        training: Items,
        inferer: Reconstruction,
        device: torch.device | str,
        interval: int,
    ) -> None:
        super().__init__(folder, interval)
        self.ema = ema
        self.items = heldout if len(heldout) else training
        self.inferer = inferer
        self.device = device

    @torch.no_grad()
    def draw(self) -> Image.Image:
        """Run the slices through the present weights."""
        slices = torch.stack([item["image"] for item in spread_evenly(self.items, SHOWN)])
        made = self.inferer(slices.to(self.device), self.ema.module.eval()).cpu()
        return comparison(list(slices[:, 0].numpy()), list(made[:, 0].numpy()), [None] * len(slices))
