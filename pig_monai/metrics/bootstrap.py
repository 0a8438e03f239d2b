"""Means with confidence intervals over patients: slices of one patient resemble each other, patients do not."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

import numpy as np
from scipy.stats import norm as normal
from scipy.stats import t as student

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


def estimate(
    values: Sequence[float] | np.ndarray,
    patients: Sequence[str],
    seed: int,
    draws: int = DRAWS,
    folds: Sequence[int] | None = None,
) -> Estimate:
    """Return the mean of ``values`` and its 95 % percentile interval of a bootstrap over patients.

    Each draw takes as many patients as there are, with replacement, and all values of each. Where there are
    several trainings, it takes as many of these, too, fold by fold, and their deviations from their mean are
    widened by √(k / (k − 1)): drawing alone would lose a part of the variance of the few that there are. How large
    that variance is, few trainings hardly say either: the interval is stretched from the normal quantile to
    Student's, at Satterthwaite's degrees of freedom (1946). For the difference of two models give the slices'
    differences: the draws are then paired.

    Args:
        values: one a slice, or one a lesion (n,); NaN is left out. Of several trainings a row each, (k, n).
        patients: whose each of the n is.
        seed: of the draws.
        draws: number of bootstrap draws.
        folds: in which each of the n was held out: its k trainings are others than those of other folds. None
            where all are of the same ones.

    Returns:
        the estimate, ``n`` and ``sd`` of the trainings' means; without an interval where fewer than two patients
        have a value.
    """
    by_training = np.atleast_2d(np.asarray(values, dtype=np.float64))
    known = ~np.isnan(by_training).any(axis=0)
    kept = by_training[:, known]
    if not kept.size:
        return Estimate(0, None, None, None, None, 0, None, None, None)
    _, first, owner = np.unique(np.asarray(patients)[known], return_index=True, return_inverse=True)
    counts = np.bincount(owner)
    sums = np.stack([np.bincount(owner, weights=row) for row in kept])
    apart = np.zeros(len(counts)) if folds is None else np.asarray(folds)[known][first]
    low, high, patient_low, patient_high = _intervals(sums, counts, apart, seed, draws)
    means = kept.mean(axis=0)
    return Estimate(
        n=len(means),
        mean=float(means.mean()),
        sd=float(means.std(ddof=1)) if len(means) > 1 else None,
        low=low,
        high=high,
        patients=len(counts),
        patient_mean=float((sums.mean(axis=0) / counts).mean()),
        patient_low=patient_low,
        patient_high=patient_high,
    )


def _intervals(
    sums: np.ndarray, counts: np.ndarray, apart: np.ndarray, seed: int, draws: int
) -> tuple[float | None, ...]:
    """Return the ends of the intervals of the mean over values and of the mean over patients.

    Args:
        sums: of each patient's values, (k, patients).
        counts: how many values each has, (patients,).
        apart: patients of one number here were held out together, (patients,).
        seed: of the draws.
        draws: how many.
    """
    if len(counts) < 2:
        return None, None, None, None
    trainings = len(sums)
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, len(counts), (draws, len(counts)))
    mean = sums.mean(axis=0)
    widened = math.sqrt(trainings / max(trainings - 1, 1))
    together = [apart == fold for fold in np.unique(apart)]
    drawn = np.empty((draws, len(counts)))
    for patients in together:
        often = rng.multinomial(trainings, [1 / trainings] * trainings, draws)
        drawn[:, patients] = mean[patients] + widened * (often @ (sums - mean)[:, patients]) / trainings
    of_chosen = np.take_along_axis(drawn, chosen, axis=1)
    over_values = of_chosen.sum(axis=1) / counts[chosen].sum(axis=1)
    over_patients = (of_chosen / counts[chosen]).mean(axis=1)
    parts = (sums / counts.sum(), sums / counts / len(counts))  # what each patient adds to either mean
    return tuple(
        end
        for means, part in zip((over_values, over_patients), parts, strict=True)
        for end in _ends(means, np.stack([part[:, patients].sum(axis=1) for patients in together]))
    )


def _ends(drawn: np.ndarray, by_training: np.ndarray) -> tuple[float, float]:
    """Return the ends of an interval, from the draws of a mean and what it is the sum of, (folds, k)."""
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    mean, stretched = by_training.mean(axis=1).sum(), _stretch(float(drawn.var()), by_training)
    return float(mean + stretched * (low - mean)), float(mean + stretched * (high - mean))


def _stretch(variance: float, by_training: np.ndarray) -> float:
    """Return Student's quantile by the normal one, 1 for a single training or for trainings that do not differ.

    The part of the variance that the k trainings of each fold contribute is known with k − 1 degrees of freedom,
    that of the patients is taken for known.
    """
    k = by_training.shape[1]
    of_trainings = by_training.var(axis=1, ddof=1) / k if k > 1 else np.zeros(1)
    if not of_trainings.any():
        return 1.0
    freedom = (k - 1) * max(float(of_trainings.sum()), variance) ** 2 / float((of_trainings**2).sum())
    level = (1 + LEVEL) / 2
    return float(student.ppf(level, freedom) / normal.ppf(level))
