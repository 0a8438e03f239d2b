"""How a pair comes to be: x̂₀ and ŷ₀ over the steps (the paper's Fig. 3)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from pig_monai.diffusion.solvers import Estimate
from pig_monai.pairs.sampler import Sampler, decoded
from pig_monai.pictures import contact_sheet, magnification

FRAMES = 8


class _Recorder:
    """Keeps the estimates of a few steps, spread evenly over the walk."""

    def __init__(self, sampler: Sampler, check: Callable[[], None]) -> None:
        self.sampler = sampler
        self.check = check
        steps = sampler.num_steps
        self.wanted = {round(i) for i in np.linspace(0, steps - 1, min(FRAMES, steps))}
        self.masks: list[np.ndarray] = []
        self.slices: list[np.ndarray] = []

    def __call__(self, index: int, mask: Estimate, slice_: Estimate) -> None:
        self.check()
        if index in self.wanted:
            picture_of_mask, picture_of_slice = decoded(self.sampler, mask, slice_)
            self.masks.append(picture_of_mask)
            self.slices.append(picture_of_slice)


def film_strip(sampler: Sampler, index: int, check: Callable[[], None], width: int = 1600) -> Image.Image:
    """Sample pair ``index`` once more and draw x̂₀ (upper row) and ŷ₀ (lower row) from noise to the end.

    Slices without masks have one row.

    Args:
        sampler: draws the pair.
        index: of the pair.
        check: is called at every step; what it raises ends the drawing.
        width: of the picture in pixels, about.
    """
    recorder = _Recorder(sampler, check)
    sampler.draw([index], on_step=recorder)
    frames = len(recorder.slices)
    scale = magnification(width / frames, sampler.image_size)
    tiles = (recorder.masks if sampler.has_masks else []) + recorder.slices
    return contact_sheet(tiles, [None] * len(tiles), columns=frames, scale=scale)
