"""Intervals against normal theory, and against the draws written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm, t

from pig_monai.metrics import bootstrap
from pig_monai.metrics.bootstrap import estimate


def test_one_value_a_patient_gives_the_interval_of_a_mean_of_normals():
    values = np.random.default_rng(0).normal(0.6, 0.2, 400)
    found = estimate(values.tolist(), [f"p{i}" for i in range(400)], seed=1, draws=20000)
    # the bootstrap's own standard error: sd / √n with n, not n − 1, below
    half = 1.959964 * values.std() / math.sqrt(400)
    assert found.mean == pytest.approx(values.mean())
    assert found.sd == pytest.approx(np.std(values, ddof=1))
    expected = (values.mean() - half, values.mean() + half)
    assert (found.low, found.high) == pytest.approx(expected, abs=0.05 * half)
    # each patient has one value: both means are one
    assert found.patient_mean == pytest.approx(found.mean)
    assert (found.patient_low, found.patient_high) == pytest.approx((found.low, found.high))


def test_slices_of_a_patient_do_not_count_as_independent():
    rng = np.random.default_rng(2)
    per_patient = rng.normal(0.5, 0.2, 60)
    values, patients = np.repeat(per_patient, 25), np.repeat(np.arange(60), 25).astype(str)
    found = estimate(values.tolist(), patients.tolist(), seed=0, draws=20000)
    half = 1.959964 * per_patient.std() / math.sqrt(60)  # of 60 patients, not of 1,500 slices
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)
    assert (found.n, found.patients) == (1500, 60)


def test_the_draws_are_of_whole_patients():
    """The interval is the quantiles of means written out with loops."""
    rng = np.random.default_rng(3)
    groups = {f"p{i}": rng.random(1 + i).tolist() for i in range(7)}
    values = [v for group in groups.values() for v in group]
    patients = [name for name, group in groups.items() for _ in group]
    means, patient_means = [], []
    for chosen in np.random.default_rng(9).integers(0, 7, (300, 7)):
        drawn = [list(groups.values())[i] for i in chosen]
        means.append(np.mean([v for group in drawn for v in group]))
        patient_means.append(np.mean([np.mean(group) for group in drawn]))
    found = estimate(values, patients, seed=9, draws=300)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1e-12)
    expected = tuple(np.quantile(patient_means, [0.025, 0.975]))
    assert (found.patient_low, found.patient_high) == pytest.approx(expected, abs=1e-12)
    assert found.patient_mean == pytest.approx(np.mean([np.mean(group) for group in groups.values()]))


def test_the_draws_are_of_trainings_too():
    """Three trainings of the same slices: the draws are written out with loops, patients before trainings."""
    rng = np.random.default_rng(5)
    patients = [f"p{i}" for i in range(5) for _ in range(1 + i)]
    values = rng.random((3, len(patients)))
    draws = np.random.default_rng(8)
    chosen = draws.integers(0, 5, (200, 5))
    trainings = draws.multinomial(3, [1 / 3] * 3, 200)
    means = []
    for who, how_often in zip(chosen, trainings, strict=True):
        wide = values.mean(axis=0) + (values - values.mean(axis=0)) * math.sqrt(3 / 2)
        rows = [row for row, times in zip(wide, how_often, strict=True) for _ in range(times)]
        drawn = [row[i] for row in rows for w in who for i in range(len(patients)) if patients[i] == f"p{w}"]
        means.append(np.mean(drawn))
    of_trainings = values.mean(axis=1).var(ddof=1) / 3
    stretched = t.ppf(0.975, 2 * (np.var(means) / of_trainings) ** 2) / norm.ppf(0.975)
    expected = [values.mean() + stretched * (end - values.mean()) for end in np.quantile(means, [0.025, 0.975])]
    found = estimate(values, patients, seed=8, draws=200)
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-12)
    assert (found.mean, found.n) == (pytest.approx(values.mean()), len(patients))


def test_trainings_that_differ_widen_the_interval_as_the_variance_of_their_means_says():
    """Patients without any spread: all that is uncertain is the trainings' mean, of variance σ² / k."""
    offsets = np.random.default_rng(6).normal(0, 0.1, 50)
    found = estimate(np.repeat(offsets[:, None], 30, axis=1), [f"p{i}" for i in range(30)], seed=0, draws=20000)
    half = t.ppf(0.975, 49) * offsets.std(ddof=1) / math.sqrt(50)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)


def test_of_three_trainings_the_interval_has_their_whole_variance():
    """Of −d, 0 and d one draw in 27 has −d alone, more than 2.5 %: it ends the interval.

    Widened by √(3/2), and as Student's by 4.30 / 1.96.
    """
    end = math.sqrt(1.5) * 4.302653 / 1.959964
    values = np.repeat([[-0.1], [0.0], [0.1]], 20, axis=1)
    found = estimate(values, [f"p{i}" for i in range(20)], seed=0, draws=20000)
    assert (found.low, found.high) == pytest.approx((-0.1 * end, 0.1 * end), rel=0.05)


def held_truth(of_trainings: float, repetitions: int) -> float:
    """Return the share of intervals that hold the truth: 36 patients, three trainings that differ so much."""
    rng = np.random.default_rng(0)
    patients, held = np.repeat(np.arange(36), 2), 0
    for seed in range(repetitions):
        values = rng.normal(0, 4, 36)[patients] + rng.normal(0, of_trainings, (3, 1)) + rng.normal(0, 2, (3, 72))
        found = estimate(values, patients.astype(str), seed, draws=300)
        held += found.patient_low <= 0 <= found.patient_high
    return held / repetitions


def test_some_ninety_five_of_a_hundred_intervals_hold_the_truth():
    assert 0.92 <= held_truth(0.0, 200) <= 0.98
    assert 0.92 <= held_truth(0.6, 200) <= 0.98


def test_without_students_quantile_trainings_that_differ_much_would_have_too_short_ones(monkeypatch):
    with_it = held_truth(5.0, 300)
    monkeypatch.setattr(bootstrap, "_stretch", lambda *_: 1.0)
    assert with_it >= 0.89 > 0.87 > held_truth(5.0, 300)


def test_trainings_of_different_folds_are_drawn_apart():
    """Patients without any spread: of three folds of three trainings the variance is a third, and known better."""
    offsets = np.array([[-0.1, 0.0, 0.1], [0.1, -0.1, 0.0], [0.0, 0.1, -0.1]])  # by fold and training
    values = np.repeat(offsets.T, 10, axis=1)
    folds = np.repeat([0, 1, 2], 10).tolist()
    found = estimate(values, [f"p{i}" for i in range(30)], seed=0, draws=20000, folds=folds)
    half = math.sqrt(3 * (0.1**2 / 3) / 9) * t.ppf(0.975, 6)
    assert (found.low, found.high) == pytest.approx((-half, half), rel=0.1)
    as_one = estimate(values, [f"p{i}" for i in range(30)], seed=0, draws=20000)
    assert as_one.high < 0.3 * half  # trainings of one number would cancel each other


def test_the_seed_decides_and_the_order_does_not():
    values, patients = [0.1, 0.5, 0.9, 0.3, 0.2], ["a", "a", "b", "c", "d"]
    one, turned = estimate(values, patients, seed=4), estimate(values[::-1], patients[::-1], seed=4)
    assert turned.to_dict() == pytest.approx(one.to_dict(), abs=1e-12)
    assert estimate(values, patients, seed=5) != one


def test_undefined_values_and_their_patients_are_left_out():
    found = estimate([0.2, math.nan, 0.4, math.nan], ["a", "a", "b", "c"], seed=0)
    assert found == estimate([0.2, 0.4], ["a", "b"], seed=0)
    assert (found.n, found.patients) == (2, 2)


def test_too_few_values_give_no_interval_rather_than_a_wrong_one():
    lone = estimate([0.2, 0.6], ["a", "a"], seed=0)
    assert (lone.mean, lone.low, lone.high, lone.patient_low) == (pytest.approx(0.4), None, None, None)
    assert estimate([0.2], ["a"], seed=0).sd is None
    nothing = estimate([math.nan], ["a"], seed=0)
    assert (nothing.n, nothing.mean, nothing.low) == (0, None, None)
