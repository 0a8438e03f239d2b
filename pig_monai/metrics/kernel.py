"""The kernel distance of two samples of features: an unbiased estimate of the squared maximum mean discrepancy.

Of InceptionV3's features it is the KID (Bińkowski et al., ICLR 2018). It takes no samples for Gaussians, and being
unbiased its expectation does not depend on their sizes; it may come out below 0 for samples of one distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SUBSETS = 100


@dataclass(frozen=True)
class KernelDistance:
    """A kernel distance and its spread.

    Args:
        value: of the whole samples.
        sd: of the estimates from random subsets of ``subset`` slices of either sample; None for no subsets.
        subset: slices in a subset, half of the smaller sample.
    """

    value: float
    sd: float | None
    subset: int


def kernel_distance(
    real: np.ndarray, generated: np.ndarray, seed: int = 0, subsets: int = SUBSETS
) -> KernelDistance:
    """Return the kernel distance for the polynomial kernel (x·y / d + 1)³.

    The KID's authors average the estimates of subsets, which have the expectation of the whole samples' one and
    more variance: here they give the spread alone.

    Args:
        real: (n, d), n ≥ 4; computed in float64.
        generated: (m, d), m ≥ 4.
        seed: of the subsets.
        subsets: how many; 0 for no spread.
    """
    one, other = (np.asarray(features, dtype=np.float64) for features in (real, generated))
    within, across, beyond = _kernel(one, one), _kernel(one, other), _kernel(other, other)
    value = _mmd2(within, across, beyond)
    subset = min(len(one), len(other)) // 2
    if not subsets:
        return KernelDistance(value, None, subset)
    rng = np.random.default_rng(seed)
    estimates = []
    for _ in range(subsets):
        a, b = (rng.choice(len(sample), subset, replace=False) for sample in (one, other))
        estimates.append(_mmd2(within[np.ix_(a, a)], across[np.ix_(a, b)], beyond[np.ix_(b, b)]))
    return KernelDistance(value, float(np.std(estimates, ddof=1)), subset)


def _kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    kernel: np.ndarray = (one @ other.T / one.shape[1] + 1) ** 3
    return kernel


def _mmd2(within: np.ndarray, across: np.ndarray, beyond: np.ndarray) -> float:
    """Return the mean within both samples, without each slice with itself, minus twice that across them."""
    n, m = across.shape
    inner = (within.sum() - np.trace(within)) / (n * (n - 1))
    outer = (beyond.sum() - np.trace(beyond)) / (m * (m - 1))
    return float(inner + outer - 2 * across.mean())
