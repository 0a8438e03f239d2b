"""The Fréchet distance of two samples of features, each taken for a Gaussian.

Of InceptionV3's features it is the FID (Heusel et al., NeurIPS 2017); of any others it is no FID.
"""

from __future__ import annotations

import numpy as np


def frechet_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """Return ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½), the squared 2-Wasserstein distance of the two Gaussians.

    With no more slices than features a covariance is singular and the result far too high: project first
    (`pig_monai.metrics.projection`).

    With X and Y the centred samples, Σ₁ = XᵀX / (n − 1), and the singular values of Σ₁^½ Σ₂^½, which
    `frechet_of_moments` sums, are those of XYᵀ / √((n − 1)(m − 1)): of few slices with many features a far smaller
    matrix.

    Args:
        real: (n, d), n ≥ 2; computed in float64.
        generated: (m, d), m ≥ 2.
    """
    x, y = (np.asarray(sample, dtype=np.float64) for sample in (real, generated))
    if len(x) * len(y) >= x.shape[1] ** 2:
        return frechet_of_moments(*_moments(x), *_moments(y))
    difference = x.mean(axis=0) - y.mean(axis=0)
    x, y = ((sample - sample.mean(axis=0)) / np.sqrt(len(sample) - 1) for sample in (x, y))
    roots = np.linalg.svd(x @ y.T, compute_uv=False)
    distance = difference @ difference + (x**2).sum() + (y**2).sum() - 2 * roots.sum()
    return max(0.0, float(distance))


def frechet_of_moments(mean: np.ndarray, cov: np.ndarray, other_mean: np.ndarray, other_cov: np.ndarray) -> float:
    """Return the distance of two Gaussians.

    The trace of (Σ₁ Σ₂)^½ is the sum of the square roots of the eigenvalues of Σ₁ Σ₂. These roots are the singular
    values of Σ₁^½ Σ₂^½, a product of symmetric roots: no root of a matrix without symmetry is needed, and rounding
    stays as small as it is where a covariance is singular.

    Args:
        mean: (d,).
        cov: (d, d), symmetric.
        other_mean: (d,).
        other_cov: (d, d), symmetric.
    """
    roots = np.linalg.svd(_root(cov) @ _root(other_cov), compute_uv=False)
    difference = mean - other_mean
    distance = difference @ difference + np.trace(cov) + np.trace(other_cov) - 2 * roots.sum()
    return max(0.0, float(distance))


def _root(cov: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(cov)
    root: np.ndarray = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return root


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return values.mean(axis=0), np.atleast_2d(np.cov(values, rowvar=False))
