"""Where the breast is in a slice, and on which side its chest wall."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms import Transform
from scipy.ndimage import label as connected_components

BREAST_FRACTION = 0.05
"""A pixel belongs to the breast when it is brighter than this fraction of the slice's range (see below)."""


def _numbers_of(values: np.ndarray) -> np.ndarray:
    """Leave out NaN."""
    missing = np.isnan(values)
    return values[~missing] if missing.any() else values


def breast_threshold(image: torch.Tensor) -> float:
    """Return the value above which a pixel counts as breast.

    The background is the darkest thing in a slice and nearly constant, so a small fraction of the way from the
    1st to the 99th percentile clears exact zeros, JPEG ringing and detector noise alike, whatever the bit depth.

    Args:
        image: (1, W, H), any unit; NaN, where the source has no data, does not count.
    """
    values = _numbers_of(np.asarray(image))
    dark, bright = (float(v) for v in np.percentile(values, [1, 99]))
    if bright <= dark:  # less than 1 % of the slice holds anything
        dark, bright = float(values.min()), float(values.max())
    return dark + BREAST_FRACTION * (bright - dark)


def breast_mask(image: torch.Tensor) -> torch.Tensor:
    """Return the largest connected region above `breast_threshold`: the breast without burnt-in markers.

    Args:
        image: (1, W, H), any unit.

    Returns:
        bool (1, W, H); all False for a constant image.
    """
    breast = np.asarray(image[0]) > breast_threshold(image)
    x, y = (np.flatnonzero(breast.any(axis=1 - axis)) for axis in (0, 1))
    if len(x):
        # labelled in its bounding box: about half of a slice is background
        above = breast[x[0] : x[-1] + 1, y[0] : y[-1] + 1]
        regions, _ = connected_components(above, np.ones((3, 3)))
        sizes = np.bincount(regions.ravel())
        above[...] = regions == 1 + sizes[1:].argmax()
    return torch.from_numpy(breast)[None]


def chest_wall_side(breast: torch.Tensor) -> str:
    """Return ``"left"`` or ``"right"``: at the chest wall the breast is cut off straight, so it is taller there.

    Heights, from the first to the last pixel of a column (a fatty breast has dark holes), are compared at both
    ends of the breast, over 5 % of its width, so that neither a skin fold nor the nipple decides.

    Args:
        breast: bool (1, W, H), from `breast_mask`.
    """
    columns = np.asarray(breast[0])
    columns = columns[columns.any(axis=1)]
    if len(columns) == 0:
        return "left"
    heights = columns.shape[1] - columns.argmax(axis=1) - columns[:, ::-1].argmax(axis=1)
    band = max(1, round(0.05 * len(columns)))
    return "right" if heights[-band:].sum() > heights[:band].sum() else "left"


class FindBreastd(Transform):
    """Add ``"breast"``, the `breast_mask` of a slice, and ``"chest_wall"``, its `chest_wall_side`.

    Args:
        source_key: the slice, (1, W, H).
    """

    def __init__(self, source_key: str = "image") -> None:
        self.source_key = source_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the two keys."""
        breast = breast_mask(data[self.source_key])
        return {**data, "breast": breast, "chest_wall": chest_wall_side(breast)}
