"""Texture by scikit-image: brightness, co-occurrence of grey levels, local binary patterns, directions of edges.

62 figures that need no trained network and mean the same everywhere.
"""

from __future__ import annotations

import numpy as np
from skimage.feature import graycomatrix, graycoprops, hog, local_binary_pattern

from pig_monai.features.space import FeatureSpace

HISTOGRAM = 8
"""Bins over [−1, 1]; the last one follows from the others and is left out."""

GREY_LEVELS = 16
"""Of the co-occurrence matrices."""

OFFSETS = (1, 2)
"""Their distances in pixels, each the mean over four directions."""

PROPERTIES = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation")

PATTERN_LEVELS = 64
"""Of the local binary patterns: noise of less than a 64th of the range is no pattern."""

PATTERN_POINTS = 8
ORIENTATIONS = 8
CELLS = 2
"""Cells a side in which directions of edges are counted."""


def texture_features(slices: np.ndarray) -> np.ndarray:
    """Return 62 figures of each slice; see `describe_texture`.

    Args:
        slices: float (n, W, H) in [−1, 1].
    """
    return np.stack([describe_texture(image) for image in slices])


def describe_texture(image: np.ndarray) -> np.ndarray:
    """Describe one slice.

    Args:
        image: float (W, H) in [−1, 1].

    Returns:
        float64 (62,): 4 moments, 7 shares of the histogram, 10 properties of co-occurrence matrices, 9 shares of
        uniform local binary patterns, 32 shares of directions (2 × 2 cells).
    """
    return np.concatenate(
        [moments(image), histogram(image), co_occurrence(image), local_patterns(image), directions(image)]
    )


def moments(image: np.ndarray) -> np.ndarray:
    """Return mean, standard deviation, skewness and excess kurtosis; the latter two are 0 for a flat image."""
    values = image.astype(np.float64).ravel()
    mean, deviation = values.mean(), values.std()
    if deviation < 1e-9:
        return np.array([mean, 0.0, 0.0, 0.0])
    scaled = (values - mean) / deviation
    return np.array([mean, deviation, (scaled**3).mean(), (scaled**4).mean() - 3])


def histogram(image: np.ndarray) -> np.ndarray:
    """Return the shares of the pixels in all bins but the last."""
    counts = np.bincount(grey_levels(image, HISTOGRAM).ravel(), minlength=HISTOGRAM)
    shares: np.ndarray = counts[:-1] / image.size
    return shares


def co_occurrence(image: np.ndarray) -> np.ndarray:
    """Return the properties of the co-occurrence matrices (Haralick et al. 1973), by property and offset."""
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    levels = grey_levels(image, GREY_LEVELS)
    matrices = graycomatrix(levels, OFFSETS, angles, levels=GREY_LEVELS, symmetric=True, normed=True)
    return np.concatenate([graycoprops(matrices, name).mean(axis=1) for name in PROPERTIES])


def local_patterns(image: np.ndarray) -> np.ndarray:
    """Return the shares of the uniform local binary patterns (Ojala et al. 2002), all but the last kind."""
    kinds = PATTERN_POINTS + 2
    patterns = local_binary_pattern(grey_levels(image, PATTERN_LEVELS), PATTERN_POINTS, 1, method="uniform")
    shares: np.ndarray = np.bincount(patterns.astype(int).ravel(), minlength=kinds)[:-1] / image.size
    return shares


def directions(image: np.ndarray) -> np.ndarray:
    """Return the histograms of oriented gradients (Dalal and Triggs 2005), each cell normalised by itself."""
    cell = tuple(length // CELLS for length in image.shape)
    found: np.ndarray = hog(
        image.astype(np.float64), orientations=ORIENTATIONS, pixels_per_cell=cell, cells_per_block=(1, 1)
    )
    return found


def grey_levels(image: np.ndarray, levels: int) -> np.ndarray:
    """Return [−1, 1] as ``levels`` equal steps: uint8."""
    return np.clip((image.astype(np.float64) + 1) / 2 * levels, 0, levels - 1).astype(np.uint8)


TEXTURE = FeatureSpace("texture", "texture (scikit-image)", texture_features, standardise=True)
