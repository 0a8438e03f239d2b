"""Bounding boxes: of what a mask holds, of the breast."""

from __future__ import annotations

import numpy as np

Box = tuple[int, int, int, int]
"""(x0, y0, x1, y1) in pixels; x1 and y1 are the first ones beyond."""


def bounding_box(mask: np.ndarray) -> Box | None:
    """Return the box around what a mask (W, H) holds; None where it is empty."""
    x = np.flatnonzero(mask.any(axis=1))
    if not len(x):
        return None
    y = np.flatnonzero(mask[x[0] : x[-1] + 1].any(axis=0))
    return int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1


def within(box: Box) -> tuple[slice, slice]:
    """Return the index of a box's pixels."""
    x0, y0, x1, y1 = box
    return slice(x0, x1), slice(y0, y1)
