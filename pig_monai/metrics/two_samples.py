"""Whether figures of two samples have one distribution: Kolmogorov–Smirnov tests, corrected for their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import ks_2samp

SIGNIFICANT = 0.05
"""Of a p-value, corrected where there are several: below it a difference is called one."""


@dataclass(frozen=True)
class TwoSampleTest:
    """One figure in two samples.

    Args:
        statistic: the largest difference of the two cumulative distributions, 0 (equal) to 1 (apart).
        p_value: of the test alone.
        p_holm: corrected for the number of figures tested together (Holm 1979).
        medians: of the real and of the generated ones.
    """

    statistic: float
    p_value: float
    p_holm: float
    medians: tuple[float, float]


def compare_statistics(
    real: Mapping[str, np.ndarray], generated: Mapping[str, np.ndarray]
) -> dict[str, TwoSampleTest]:
    """Test each figure of two samples.

    The tests take slices for independent. Those of one patient are not: the p-values are too small then, and the
    statistic is the figure to look at.

    Args:
        real: values (n,) by figure, finite.
        generated: values (m,) by figure; the same figures.
    """
    tests = {name: ks_2samp(real[name], generated[name]) for name in real}
    corrected = holm([test.pvalue for test in tests.values()])
    return {
        name: TwoSampleTest(
            statistic=float(test.statistic),
            p_value=float(test.pvalue),
            p_holm=p_holm,
            medians=(float(np.median(real[name])), float(np.median(generated[name]))),
        )
        for (name, test), p_holm in zip(tests.items(), corrected, strict=True)
    }


def any_of(p_values: Sequence[float]) -> float:
    """Return the p-value of "at least one of these tests shows it": the smallest, corrected by Bonferroni.

    It holds however the tests depend on each other, which those of a study's folds do.
    """
    return min(1.0, len(p_values) * min(p_values))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected by Holm's step-down method, in the order given."""
    order = np.argsort(p_values)
    factors = np.arange(len(p_values), 0, -1)
    stepped = np.minimum(1, np.maximum.accumulate(np.asarray(p_values, dtype=np.float64)[order] * factors))
    corrected = np.empty(len(p_values))
    corrected[order] = stepped
    return [float(value) for value in corrected]
