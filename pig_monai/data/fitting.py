"""Bringing slices and masks to the size that the network sees."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import label as connected_components

from pig_monai.data.bounding import bounding_box, within
from pig_monai.data.resampling import fitting_weights, resample

BACKGROUND = -1.0
"""The value of everything outside the breast in a prepared slice."""


def fitted_size(shape: tuple[int, ...], size: int, aspect: str) -> tuple[int, int]:
    """Return the (W, H) that a slice of ``shape`` (W, H) has before it is padded to a square.

    Args:
        shape: of the slice.
        size: side of the square in pixels.
        aspect: ``"pad"`` or ``"stretch"``.
    """
    if aspect == "stretch":
        return size, size
    scale = size / max(shape)
    width, height = (max(1, round(n * scale)) for n in shape)
    return width, height


def fit_slice(image: np.ndarray, size: int, aspect: str = "pad", background: float = BACKGROUND) -> np.ndarray:
    """Bring a slice to (size, size).

    It is averaged over areas when it shrinks (no aliasing) and interpolated when it grows. What is padded lies at
    the right and at the bottom, so the chest wall stays at the left edge.

    Args:
        image: float32 (W, H).
        size: side of the square in pixels.
        aspect: ``"pad"`` keeps the aspect and pads; ``"stretch"`` fills the square.
        background: value that is padded.
    """
    return _padded(resize_slice(image, fitted_size(image.shape, size, aspect)), size, background)


def fit_mask(mask: np.ndarray, size: int, aspect: str = "pad") -> np.ndarray:
    """Bring a mask, bool (W, H), to (size, size) as `fit_slice` does a slice; see `resize_mask`."""
    return _padded(resize_mask(mask, fitted_size(mask.shape, size, aspect)), size, False)


def _padded(image: np.ndarray, size: int, value: float) -> np.ndarray:
    square = np.full((size, size), value, image.dtype)
    square[: image.shape[0], : image.shape[1]] = image
    return square


def resize_slice(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a slice, float32 (W, H): area averages along axes that shrink, linear along those that grow."""
    if image.shape == size:
        return image
    pairs = zip(image.shape, size, strict=True)
    return resample(image, *(fitting_weights(old, new).astype(np.float32) for old, new in pairs))


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a mask, bool (W, H), without losing a lesion.

    A pixel belongs to the result when the mask covers more than half of it. A connected region that covers more
    than half of no pixel, thus would vanish, keeps the pixel that it covers most of.

    Returns:
        bool of ``size``.
    """
    box = bounding_box(mask)
    if mask.shape == size or box is None:
        return mask if mask.shape == size else np.zeros(size, bool)
    inner = mask[within(box)]  # most of a slice holds no mask
    across, down = (
        fitting_weights(old, new)[:, part] for old, new, part in zip(mask.shape, size, within(box), strict=True)
    )
    out = resample(inner.astype(np.float64), across, down) > 0.5 + 1e-9  # half, in floating point
    regions, _ = connected_components(inner, np.ones((3, 3)))
    x, y = np.nonzero(inner)
    region = regions[x, y]
    # the pixel of the result that holds each pixel's centre
    cell_x = np.floor((x + box[0] + 0.5) * size[0] / mask.shape[0]).astype(int)
    cell_y = np.floor((y + box[1] + 0.5) * size[1] / mask.shape[1]).astype(int)
    survived = np.unique(region[out[cell_x, cell_y]])
    for lost in np.setdiff1d(region, survived):
        cells = np.stack([cell_x, cell_y])[:, region == lost]
        best, count = np.unique(cells, axis=1, return_counts=True)
        out[best[0, count.argmax()], best[1, count.argmax()]] = True
    return out
