"""Means with confidence intervals over patients: slices of one patient resemble each other, patients do not."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

import numpy as np

Key = TypeVar("Key", bound=Hashable)

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean and how certain it is; None where there are too few values.

    Args:
        n: values.
        mean: over the values.
        sd: sample standard deviation of the values (n − 1).
        low: lower end of the 95 % interval of the mean.
        high: its upper end.
        patients: that the values are from.
        patient_mean: the mean over patients, each of whom counts once.
        patient_low: lower end of its 95 % interval.
        patient_high: its upper end.
    """

    n: int
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    patients: int
    patient_mean: float | None
    patient_low: float | None
    patient_high: float | None

    def to_dict(self) -> dict[str, float | int | None]:
        """Return what goes into a JSON file."""
        return asdict(self)


def paired_difference(
    first: Mapping[Key, float], second: Mapping[Key, float], patients: Mapping[Key, str], seed: int
) -> Estimate:
    """Return how much more the second has than the first, over the same slices or lesions; see `estimate`.

    Args:
        first: values by slice or lesion.
        second: values of the same ones.
        patients: whose each is.
        seed: of the draws.
    """
    return estimate([second[key] - value for key, value in first.items()], [patients[key] for key in first], seed)


def estimate(values: Sequence[float], patients: Sequence[str], seed: int, draws: int = DRAWS) -> Estimate:
    """Return the mean of ``values`` and its 95 % percentile interval of a bootstrap over patients.

    Each draw takes as many patients as there are, with replacement, and all values of each. For the difference of
    two models give the slices' differences: the draws are then paired.

    Args:
        values: one a slice, or one a lesion; NaN is left out.
        patients: whose each value is.
        seed: of the draws.
        draws: number of bootstrap draws.

    Returns:
        the estimate; without an interval where fewer than two patients have a value.
    """
    all_values = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(all_values)
    kept = all_values[known]
    if not len(kept):
        return Estimate(0, None, None, None, None, 0, None, None, None)
    _, owner = np.unique(np.asarray(patients)[known], return_inverse=True)
    counts = np.bincount(owner)
    sums = np.bincount(owner, weights=kept)
    low, high, patient_low, patient_high = _intervals(sums, counts, seed, draws)
    return Estimate(
        n=len(kept),
        mean=float(kept.mean()),
        sd=float(kept.std(ddof=1)) if len(kept) > 1 else None,
        low=low,
        high=high,
        patients=len(counts),
        patient_mean=float((sums / counts).mean()),
        patient_low=patient_low,
        patient_high=patient_high,
    )


def _intervals(sums: np.ndarray, counts: np.ndarray, seed: int, draws: int) -> tuple[float | None, ...]:
    """Return the ends of the intervals of the mean over values and of the mean over patients."""
    if len(counts) < 2:
        return None, None, None, None
    chosen = np.random.default_rng(seed).integers(0, len(counts), (draws, len(counts)))
    over_values = sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1)
    over_patients = (sums / counts)[chosen].mean(axis=1)
    levels = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    return tuple(float(end) for means in (over_values, over_patients) for end in np.quantile(means, levels))
