"""The kernel distance of two samples of features: an unbiased estimate of the squared maximum mean discrepancy.

Of InceptionV3's features it is the KID (Bińkowski et al., ICLR 2018). It takes no samples for Gaussians, and being
unbiased its expectation does not depend on their sizes; it may come out below 0 for samples of one distribution.
"""

from __future__ import annotations

import numpy as np

from pig_monai.metrics.blocks import blocks

SUBSETS = 100

LARGEST_SUBSET = 1000
"""Slices in a subset at most, as the KID's authors have it."""


def kernel_distance(real: np.ndarray, generated: np.ndarray, inner: float | None = None) -> float:
    """Return the kernel distance for the polynomial kernel (x·y / d + 1)³.

    Args:
        real: (n, d), n ≥ 2; computed in float64.
        generated: (m, d), m ≥ 2.
        inner: `inner_similarity` of ``real``, where it is known from another comparison.
    """
    one, other = (np.asarray(features, dtype=np.float64) for features in (real, generated))
    across = sum(float(_kernel(one[rows], other).sum()) for rows in blocks(len(one))) / (len(one) * len(other))
    known = inner_similarity(one) if inner is None else inner
    return known + inner_similarity(other) - 2 * across


def kernel_spread(
    real: np.ndarray, generated: np.ndarray, seed: int = 0, subsets: int = SUBSETS
) -> tuple[float, int]:
    """Return the standard deviation of the distances of subsets, and how many slices of either sample one has.

    The KID's authors give the mean of these distances, too: it has the expectation of `kernel_distance` and more
    variance.

    Args:
        real: (n, d), n ≥ 4; computed in float64.
        generated: (m, d), m ≥ 4.
        seed: of the subsets.
        subsets: how many, of half the smaller sample or `LARGEST_SUBSET`.
    """
    size = min(len(real) // 2, len(generated) // 2, LARGEST_SUBSET)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(subsets):
        a, b = (sample[rng.choice(len(sample), size, replace=False)] for sample in (real, generated))
        found.append(kernel_distance(a, b))
    return float(np.std(found, ddof=1)), size


def inner_similarity(sample: np.ndarray) -> float:
    """Return the mean kernel of a sample's slices with each other, none of them with itself.

    Args:
        sample: (n, d), n ≥ 2, float64.
    """
    total = sum(float(_kernel(sample[rows], sample).sum()) for rows in blocks(len(sample)))
    itself = float((((sample**2).mean(axis=1) + 1) ** 3).sum())
    return (total - itself) / (len(sample) * (len(sample) - 1))


def _kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    kernel: np.ndarray = (one @ other.T / one.shape[1] + 1) ** 3
    return kernel
