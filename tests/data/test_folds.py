from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pig_monai.data.folds import assign_folds


@pytest.fixture
def sizes() -> dict[str, float]:
    """60 patients with lesions of 1 to 60, 20 without."""
    order = np.random.default_rng(3).permutation(80)
    return {f"patient {number}": float(max(0, 60 - number)) for number in order}


def test_folds_are_balanced_by_presence_and_size(sizes: dict[str, float]) -> None:
    folds = assign_folds(sizes, seed=0)
    assert set(folds) == set(sizes)
    for low, high in [(-1, 0), (0, 20), (20, 40), (40, 60)]:  # without a lesion; small, medium, large
        counts = Counter(folds[patient] for patient, size in sizes.items() if low < size <= high)
        assert counts == dict.fromkeys(range(5), 4)


def test_unlabelled_patients_are_a_class_of_their_own(sizes: dict[str, float]) -> None:
    unknown = {f"unknown {number}": None for number in range(15)}
    folds = assign_folds(sizes | unknown, seed=0)
    assert Counter(folds[patient] for patient in unknown) == dict.fromkeys(range(5), 3)
    assert Counter(folds[patient] for patient, size in sizes.items() if size == 0) == dict.fromkeys(range(5), 4)
    assert {patient: folds[patient] for patient in sizes} == assign_folds(sizes, seed=0)


def test_folds_depend_on_the_seed_and_the_set_alone(sizes: dict[str, float]) -> None:
    assert assign_folds(dict(sorted(sizes.items())), seed=0) == assign_folds(sizes, seed=0)
    assert assign_folds(sizes, seed=1) != assign_folds(sizes, seed=0)


def test_added_patients_leave_the_others_where_they_are(sizes: dict[str, float]) -> None:
    before = assign_folds(sizes, seed=0)
    more = sizes | {f"new {number}": float(number) for number in range(40)}
    after = assign_folds(more, seed=0, existing=before)
    assert {patient: after[patient] for patient in before} == before
    counts = Counter(after.values())
    assert max(counts.values()) - min(counts.values()) <= 1


def test_a_patient_that_left_is_not_counted() -> None:
    folds = assign_folds({"a": 1.0, "b": 1.0}, seed=0, existing={"gone": 0, "a": 3})
    assert folds["a"] == 3
    assert set(folds) == {"a", "b"}
    assert folds["b"] != 3
