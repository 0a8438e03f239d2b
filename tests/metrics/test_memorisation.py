"""Memorisation on patients whose slices are drawn: it finds planted copies, and is silent where there are none."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from pig_monai.metrics.memorisation import COPY, OTHERS, find_copies, training_preference

D = 40


class Drawn(NamedTuple):
    slices: np.ndarray
    patients: list[str]


def draw(rng: np.random.Generator, patients: int, name: str = "p", spread: float = 0.15) -> Drawn:
    """Draw patients at random, one to four slices each, which resemble each other."""
    counts = rng.integers(1, 5, patients)
    centres = rng.standard_normal((patients, D))
    slices = np.repeat(centres, counts, axis=0) + spread * rng.standard_normal((counts.sum(), D))
    return Drawn(slices, [f"{name}{i}" for i in np.repeat(np.arange(patients), counts)])


def preference(generated: np.ndarray, training: Drawn, heldout: Drawn, seed: int = 0):
    return training_preference(generated, *training, *heldout, seed=seed, draws=500)


@pytest.mark.parametrize("seed", range(5))
def test_a_single_planted_copy_is_found_and_nothing_else(seed):
    rng = np.random.default_rng(seed)
    training, heldout = draw(rng, 60), draw(rng, 15, "h")
    generated = draw(rng, 40).slices
    generated[17] = training.slices[23]
    generated[30] = 0.97 * training.slices[5] + 0.2 * rng.standard_normal(D)  # disguised
    for known in (heldout.slices, None):
        copies = find_copies(generated, *training, known)
        assert np.flatnonzero(copies.suspected).tolist() == [17, 30]
        assert copies.nearest[17] == 23
        assert copies.distances[17] == copies.relative[17] == 0
        assert training.patients[copies.nearest[30]] == training.patients[5]


def test_a_patient_who_is_there_under_two_names_hides_no_copy():
    """Identical slices of two “patients” would make nothing usual, and the limit 0."""
    rng = np.random.default_rng(3)
    training = draw(rng, 60)
    twins = training.slices[:4] + 1e-6 * rng.standard_normal((4, D))  # computed again, they differ by a hair
    slices = np.concatenate([training.slices, twins])
    patients = [*training.patients, *["again"] * 4]
    generated = draw(rng, 20).slices
    generated[7] = training.slices[50]
    copies = find_copies(generated, slices, patients)
    assert np.flatnonzero(copies.suspected).tolist() == [7]
    assert copies.shared == 8  # the four and their twins
    assert find_copies(generated, *training).shared == 0
    with pytest.raises(ValueError, match="every training slice is another patient's, too"):
        find_copies(generated, np.zeros((6, D)), list("abcdef"))


def test_slices_of_held_out_patients_and_blurred_ones_are_no_copies():
    rng = np.random.default_rng(0)
    training, heldout = draw(rng, 100), draw(rng, 60, "h")
    assert not find_copies(heldout.slices, *training).suspected.any()
    blurred = 0.3 * draw(rng, 100).slices  # near to everything, since near to the mean
    copies = find_copies(blurred, *training, heldout.slices)
    assert copies.ratio < 0.9
    assert not copies.suspected.any()


def test_relative_distances_are_by_patient_and_real_slices_leave_their_own_aside():
    rng = np.random.default_rng(1)
    training = draw(rng, 14)
    generated = rng.standard_normal((3, D))
    copies = find_copies(generated, *training)

    def relative(one: np.ndarray, left_out: str | None) -> float:
        names = sorted(set(training.patients) - {left_out})
        nearest = sorted(
            min(np.linalg.norm(one - s) for s, p in zip(*training, strict=True) if p == name) for name in names
        )
        return float(nearest[0] / np.mean(nearest[1 : 1 + OTHERS]))

    assert copies.relative == pytest.approx([relative(one, None) for one in generated])
    usual = [relative(one, patient) for one, patient in zip(*training, strict=True)]
    assert copies.usual == pytest.approx(usual)
    assert copies.limit == pytest.approx(COPY * np.quantile(usual, 0.01))


def test_too_few_patients_are_refused():
    training = draw(np.random.default_rng(0), 4)
    with pytest.raises(ValueError, match="4 training patients are too few"):
        find_copies(training.slices, *training)


def test_a_generator_without_memory_is_seldom_accused():
    """Also one whose slices crowd round few patients: a test that counted slices would accuse it often."""
    accused = {"independent": 0, "crowded": 0}
    for seed in range(100):
        rng = np.random.default_rng(seed)
        training, heldout = draw(rng, 32), draw(rng, 8, "h")
        independent = rng.standard_normal((60, D))
        accused["independent"] += preference(independent, training, heldout).p_value < 0.05
        crowded = rng.standard_normal(D) + 0.3 * rng.standard_normal((60, D))
        accused["crowded"] += preference(crowded, training, heldout).p_value < 0.05
    assert max(accused.values()) <= 11  # 5 are expected, more than 11 have a probability of 0.5 %


def test_a_generator_that_remembers_is_found():
    """Slices that lean to training patients, none of them a copy."""
    rng = np.random.default_rng(0)
    training, heldout = draw(rng, 80), draw(rng, 20, "h")
    chosen = training.slices[rng.choice(len(training.slices), 100)]
    leaning = 0.5 * chosen + 0.9 * rng.standard_normal(chosen.shape)
    found = preference(leaning, training, heldout)
    assert found.share > found.expected == 0.8
    assert found.p_value < 0.01
    assert found.ratio is not None
    assert found.ratio < 1
    assert found.patients == (80, 20)


def test_without_memory_the_ratio_is_one():
    rng = np.random.default_rng(0)
    ratios = [preference(rng.standard_normal((50, D)), draw(rng, 40), draw(rng, 10, "h")).ratio for _ in range(20)]
    assert np.mean(ratios) == pytest.approx(1, abs=0.01)


def test_the_p_value_is_that_of_all_choices():
    """Four patients, one held out: only one of the four choices has its share."""
    training = Drawn(np.array([[0.0], [10], [20]]), ["a", "b", "c"])
    heldout = Drawn(np.array([[30.0]]), ["h"])
    generated = np.array([[0.0], [1], [9], [21]])  # nearest: a, a, b, c
    found = training_preference(generated, *training, *heldout, draws=4000)
    assert found.share == 1
    assert found.p_value == pytest.approx(1 / 4, abs=0.03)
    assert training_preference(heldout.slices, *training, *heldout, draws=100).share == 0


def test_a_patient_on_both_sides_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="trained on and held out"):
        preference(rng.standard_normal((5, D)), draw(rng, 10), draw(rng, 3))


def test_the_nearest_held_out_slice_is_named():
    rng = np.random.default_rng(3)
    generated, training, heldout = (rng.standard_normal((n, 4)) for n in (7, 30, 9))
    copies = find_copies(generated, training, [f"p{i // 3}" for i in range(30)], heldout)
    expected = [min(range(9), key=lambda j: np.sum((one - heldout[j]) ** 2)) for one in generated]
    assert copies.nearest_heldout.tolist() == expected
    assert find_copies(generated, training, [f"p{i // 3}" for i in range(30)]).nearest_heldout is None
