"""What a mask is measured by: the same figures of the training masks and of the candidates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from pig_monai.data.breast import chest_wall_side, find_breast


@dataclass(frozen=True)
class MaskFeatures:
    """The figures of one mask.

    Args:
        area: share of the slice's pixels.
        components: 8-connected ones.
        inside_breast: share of the mask's pixels in `breast_region`; 1 for an empty mask.
    """

    area: float
    components: int
    inside_breast: float


def measure_mask(mask: np.ndarray, image: np.ndarray) -> MaskFeatures:
    """Measure a mask.

    Args:
        mask: bool (W, H).
        image: its slice, float (W, H) in [−1, 1].
    """
    components = int(ndimage.label(mask, structure=np.ones((3, 3)))[1])
    inside = float(breast_region(image)[mask].mean()) if mask.any() else 1.0
    return MaskFeatures(float(mask.mean()), components, inside)


def breast_region(image: np.ndarray) -> np.ndarray:
    """Return where the breast is in a prepared slice, without the holes that dark fat makes in it.

    Fat is as dark as the background, also at the chest wall: a hole counts as enclosed when the breast and the
    edge of the image on the chest wall's side enclose it.

    Args:
        image: float (W, H) in [−1, 1].

    Returns:
        bool (W, H); all False for a constant slice.
    """
    bright = find_breast(image).mask()
    left = chest_wall_side(bright) == "left"
    closed = np.pad(bright, ((1, 0) if left else (0, 1), (0, 0)), constant_values=True)
    filled: np.ndarray = ndimage.binary_fill_holes(closed)
    return filled[1:] if left else filled[:-1]
