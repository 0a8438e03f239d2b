"""The slice or the mask itself, small: what memorisation is looked for in first."""

from __future__ import annotations

import numpy as np

from pig_monai.data.fitting import resize_slice
from pig_monai.features.space import MASK, SLICE, FeatureSpace

SIDE = 64


def pixel_features(slices: np.ndarray) -> np.ndarray:
    """Return each slice, or mask, at 64 × 64 at most, averaged over areas: (n, d) float64.

    Args:
        slices: float32 (n, W, H) in [−1, 1], or bool.
    """
    size = tuple(min(SIDE, length) for length in slices.shape[1:])
    small = np.stack([resize_slice(image, (size[0], size[1])) for image in slices.astype(np.float32)])
    return small.reshape(len(small), -1).astype(np.float64)


PIXELS = FeatureSpace("pixels", "pixels at 64 × 64", pixel_features, (SLICE, MASK), distances=False)
