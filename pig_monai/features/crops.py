"""Crops round lesions, all of one size."""

from __future__ import annotations

import numpy as np
from skimage.measure import label

from pig_monai.data.fitting import resize_slice

CROP = 64
"""Pixels a side of a crop."""

MARGIN = 0.5
"""What surrounds the lesion at either end, by the longer side of its bounding box."""

LEAST = 8
"""Pixels a side of the smallest part of a slice that is cropped."""


def lesion_crops(slices: np.ndarray, masks: np.ndarray, size: int = CROP) -> np.ndarray:
    """Cut a square round the largest lesion of each slice and bring it to one size.

    The square lies inside the slice: at the slice's edge it is shifted, not padded.

    Args:
        slices: float32 (n, W, H) in [−1, 1].
        masks: bool (n, W, H), none empty.
        size: pixels a side of the crops.

    Returns:
        float32 (n, size, size).

    Raises:
        ValueError: an empty mask.
    """
    crops = np.empty((len(slices), size, size), np.float32)
    for i, (image, mask) in enumerate(zip(slices, masks, strict=True)):
        crops[i] = resize_slice(image[lesion_window(mask)], (size, size))
    return crops


def lesion_window(mask: np.ndarray) -> tuple[slice, slice]:
    """Return the square round the largest lesion of a mask, bool (W, H).

    Raises:
        ValueError: an empty mask.
    """
    lesion = largest_lesion(mask)
    ends = [np.flatnonzero(lesion.any(axis=1 - axis))[[0, -1]] for axis in (0, 1)]
    longer = max(int(last - first) + 1 for first, last in ends)
    side = min(max(round((1 + 2 * MARGIN) * longer), LEAST), *mask.shape)
    starts = [(int(first + last) + 1 - side) // 2 for first, last in ends]
    starts = [min(max(start, 0), length - side) for start, length in zip(starts, mask.shape, strict=True)]
    return slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side)


def largest_lesion(mask: np.ndarray) -> np.ndarray:
    """Return the largest 8-connected part of a mask, bool (W, H); of several the first.

    Raises:
        ValueError: an empty mask.
    """
    if not mask.any():
        raise ValueError("the mask is empty")
    parts = label(mask, connectivity=2)
    largest: np.ndarray = parts == 1 + int(np.bincount(parts[mask])[1:].argmax())
    return largest
