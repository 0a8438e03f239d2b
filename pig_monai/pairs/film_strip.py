"""How a pair comes to be: x̂₀ and ŷ₀ over the steps (the paper's Fig. 3)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from pig_monai.diffusion.solvers import Estimate
from pig_monai.pairs.sampler import PairSampler
from pig_monai.pictures import contact_sheet, magnification

FRAMES = 8


class _Recorder:
    """Keeps the estimates of a few steps, spread evenly over the walk."""

    def __init__(self, steps: int, check: Callable[[], None]) -> None:
        self.check = check
        self.wanted = {round(i) for i in np.linspace(0, steps - 1, min(FRAMES, steps))}
        self.masks: list[np.ndarray] = []
        self.slices: list[np.ndarray] = []

    def __call__(self, index: int, mask: Estimate, slice_: Estimate) -> None:
        self.check()
        if index in self.wanted:
            self.masks.append(mask.x0[0, 0].float().cpu().numpy())
            self.slices.append(slice_.x0[0, 0].float().cpu().numpy())


def film_strip(sampler: PairSampler, index: int, check: Callable[[], None], width: int = 1600) -> Image.Image:
    """Sample pair ``index`` once more and draw x̂₀ (upper row) and ŷ₀ (lower row) from noise to the end.

    Args:
        sampler: draws the pair.
        index: of the pair.
        check: is called at every step; what it raises ends the drawing.
        width: of the picture in pixels, about.
    """
    recorder = _Recorder(len(sampler.grid), check)
    sampler.draw([index], on_step=recorder)
    frames = len(recorder.masks)
    scale = magnification(width / frames, sampler.image_size)
    tiles = recorder.masks + recorder.slices
    return contact_sheet(tiles, [None] * len(tiles), columns=frames, scale=scale)
