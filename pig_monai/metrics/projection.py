"""Features made comparable, and as few as a sample can bear: scaling and principal components of the real ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SLICES_A_DIMENSION = 2
"""A covariance is estimated in no more dimensions than half the slices of the smallest sample."""


@dataclass(frozen=True)
class Projection:
    """A linear map of features, learnt from real slices alone.

    Args:
        centre: (d,), the real mean.
        scale: (d,), by which features are divided.
        axes: (d, k), its columns the leading principal components; None keeps all features.
        explained: share of the real variance that is kept.
    """

    centre: np.ndarray
    scale: np.ndarray
    axes: np.ndarray | None
    explained: float

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return features (n, d) as float64 (n, k)."""
        scaled: np.ndarray = (np.asarray(features, dtype=np.float64) - self.centre) / self.scale
        return scaled if self.axes is None else scaled @ self.axes

    @property
    def dimensions(self) -> int:
        """How many are kept."""
        return len(self.centre) if self.axes is None else int(self.axes.shape[1])

    @property
    def reduced(self) -> bool:
        """Whether they are fewer than the features."""
        return self.axes is not None


def fit_projection(real: np.ndarray, most: int | None = None, standardise: bool = False) -> Projection:
    """Learn a projection from real features.

    Args:
        real: (n, d), n ≥ 2.
        most: dimensions to keep, the leading principal components; None, or d and more, for all features.
        standardise: divide each feature by its standard deviation first, for features of different units. One that
            does not vary among the real slices keeps its unit.
    """
    values = np.asarray(real, dtype=np.float64)
    centre, scale = values.mean(axis=0), np.ones(values.shape[1])
    if standardise:
        deviation = values.std(axis=0, ddof=1)
        scale = np.where(deviation > 1e-12, deviation, 1.0)
    if most is None or most >= values.shape[1]:
        return Projection(centre, scale, None, 1.0)
    spread, components = np.linalg.svd((values - centre) / scale, full_matrices=False)[1:]
    total = float((spread**2).sum())
    explained = float((spread[:most] ** 2).sum()) / total if total else 1.0
    return Projection(centre, scale, components[:most].T, explained)
