"""Slices and outlines themselves, small: what memorisation is looked for in first."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt

from pig_monai.data.fitting import resize_slice
from pig_monai.features.space import MASK, SLICE, FeatureSpace

SIDE = 64


def pixel_features(slices: np.ndarray) -> np.ndarray:
    """Return each slice at 64 × 64 at most, averaged over areas: (n, d) float64.

    Args:
        slices: float32 (n, W, H) in [−1, 1].
    """
    size = tuple(min(SIDE, length) for length in slices.shape[1:])
    small = np.stack([resize_slice(image, (size[0], size[1])) for image in slices])
    return small.reshape(len(small), -1).astype(np.float64)


def outline_features(masks: np.ndarray) -> np.ndarray:
    """Return how far each place is from the lesions' outline, in pixels, at 64 × 64 at most: (n, d) float64.

    Positive inside, negative outside. A mask that was moved by a pixel differs everywhere, but by two pixels at
    most, whether or not the two overlap.

    Args:
        masks: bool (n, W, H), none empty.
    """
    signed = [distance_transform_edt(mask) - distance_transform_edt(~mask) for mask in masks]
    return pixel_features(np.stack(signed))


PIXELS = FeatureSpace("pixels", "pixels at 64 × 64", pixel_features, (SLICE,), distances=False)
OUTLINES = FeatureSpace("outline", "distance from the outline", outline_features, (MASK,), distances=False)
"""Of masks that a network made; given ones are those of the training slices."""
