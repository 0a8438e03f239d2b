"""Linear resampling along the axes of an image: a sparse matrix of weights on either side.

No weight is cut to whole pixels: areas are exact.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.sparse import csr_array


def resample(image: np.ndarray, across: csr_array, down: csr_array) -> np.ndarray:
    """Return ``across`` · image · ``down``ᵀ.

    Args:
        image: (W, H).
        across: (new W, W), of the image's type.
        down: (new H, H), likewise.
    """
    columns_apart, rows_apart = map(abs, image.strides)
    if columns_apart < rows_apart:  # whole lines of the memory are added up: several times as fast
        return resample(image.T, down, across).T
    return np.asarray((down @ (across @ image).T).T)


@lru_cache(maxsize=32)
def fitting_weights(old: int, new: int) -> csr_array:
    """Return the weights that fit ``old`` pixels into ``new`` ones: float64 (new, old), rows that sum to 1.

    An axis that shrinks is averaged, each pixel by the area that the new one covers of it (no aliasing). One that
    grows is interpolated linearly between the middles of its pixels. The slices of a volume share them: they are
    not to be written into.
    """
    if new < old:
        ends = np.union1d(np.arange(old + 1) * new, np.arange(new + 1) * old)  # of both grids: exact whole numbers
        weights, columns = np.diff(ends) / old, ends[:-1] // new
        begins = np.searchsorted(ends, np.arange(new + 1) * old)
    else:
        places = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        before = places.astype(int)
        columns = np.stack([before, np.minimum(before + 1, old - 1)], axis=1).ravel()
        weights = np.stack([1 - (places - before), places - before], axis=1).ravel()
        begins = 2 * np.arange(new + 1)
    return csr_array((weights, columns, begins), shape=(new, old))


@lru_cache(maxsize=32)
def block_weights(old: int, step: int) -> csr_array:
    """Return the weights that average blocks of ``step`` pixels, the last one cut: float32 (⌈old / step⌉, old)."""
    begins = np.append(np.arange(0, old, step), old)
    sizes = np.diff(begins)
    weights = np.repeat(1 / sizes, sizes).astype(np.float32)
    return csr_array((weights, np.arange(old), begins), shape=(len(sizes), old))
