from __future__ import annotations

import csv
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from pig_monai.data.commands import dicom_to_slices
from pig_monai.data.folder import read_datalist
from pig_monai.data.folds import assign_folds
from tests.data.breasts import MAMMOGRAMS
from tests.data.dbt_objects import build, lesion, pixels, save, save_mask
from tests.data.helpers import report


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


@pytest.mark.skipif(not MAMMOGRAMS.is_dir(), reason="PIG_TEST_DATA names no cdd_cesm_dm/")
def test_folds_of_real_patients_are_balanced() -> None:
    """178 patients, each with one to four views: as even in number as can be, and alike in the size of lesions."""
    with (MAMMOGRAMS / "index.csv").open() as stream:
        views = list(csv.DictReader(stream))
    sizes: dict[str, float] = defaultdict(float)
    for view in views:
        sizes[view["patient"]] = max(sizes[view["patient"]], float(view["mask_fraction"]))
    folds = assign_folds(sizes, seed=0)
    assert len(folds) == 178
    counts = Counter(folds.values())
    assert max(counts.values()) - min(counts.values()) <= 1
    medians = [np.median([size for patient, size in sizes.items() if folds[patient] == fold]) for fold in range(5)]
    assert max(medians) / min(medians) < 1.6
    first = dict(sorted(sizes.items())[:100])
    before = assign_folds(first, seed=0)
    after = assign_folds(sizes, seed=0, existing=before)
    assert {patient: after[patient] for patient in before} == before
    counts = Counter(after.values())
    assert max(counts.values()) - min(counts.values()) <= 1


def test_a_patient_is_one_however_the_id_is_padded(tmp_path: Path) -> None:
    """Both breasts and all views; ids that differ in case are two; without one, each study is a patient."""
    ids = ["P1", "P1 ", " P1", "p1", "", " ", ""]
    studies = [f"1.2.{study}" for study in (1, 2, 3, 4, 5, 6, 5)]
    for number, (patient, study) in enumerate(zip(ids, studies, strict=True)):
        volume = build(pixels(), PatientID=patient, StudyInstanceUID=study)
        save(volume, tmp_path / f"dicom/{number}.dcm")
        save_mask(lesion([1]), tmp_path / f"masks/{number}.nii.gz")
    out = tmp_path / "out"
    dicom_to_slices(input=tmp_path / "dicom", masks=tmp_path / "masks", output=out, size=32)
    entries = read_datalist(out)["training"]
    of_patient = Counter(entry["patient"] for entry in entries)
    assert sorted(of_patient.values()) == [1, 1, 2, 3]
    assert len({(entry["patient"], entry["fold"]) for entry in entries}) == 4
    assert [w for w in report(out)["warnings"] if w.startswith("3 volumes have no PatientID")]
