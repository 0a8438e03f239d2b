"""The tests of masks against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from pig_monai.metrics.two_samples import any_of, compare_statistics, holm

RNG = np.random.default_rng(0)


def largest_gap(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference of two cumulative distributions, at every value that occurs."""
    return max(abs((one <= v).mean() - (other <= v).mean()) for v in np.concatenate([one, other]))


def test_the_statistic_is_the_largest_gap():
    real, generated = RNG.random(60), RNG.random(40) ** 2
    found = compare_statistics({"area": real}, {"area": generated})["area"]
    assert found.statistic == pytest.approx(largest_gap(real, generated))
    assert found.medians == (np.median(real), np.median(generated))
    assert found.p_holm == found.p_value


def test_holms_correction_is_the_textbooks():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1, 1]
    assert holm([]) == []


def test_equal_distributions_are_seldom_told_apart_and_different_ones_are():
    silent = 0
    for _ in range(80):
        sample = {name: RNG.standard_normal(50) for name in "abcd"}
        other = {name: RNG.standard_normal(60) for name in "abcd"}
        silent += min(test.p_holm for test in compare_statistics(sample, other).values()) >= 0.05
    assert silent >= 70
    assert compare_statistics(sample, {**other, "c": other["c"] + 1.5})["c"].p_holm < 0.001


def test_the_smallest_of_several_p_values_is_corrected_for_their_number():
    assert any_of([0.9, 0.01, 0.4]) == pytest.approx(0.03)
    assert any_of([0.6, 0.9]) == 1.0
    assert any_of([0.2]) == 0.2
