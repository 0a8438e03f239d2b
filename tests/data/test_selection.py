from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from pig_monai.data.commands import dicom_to_slices
from pig_monai.data.folder import heldout_entries, read_datalist, read_label, read_slice, training_entries
from pig_monai.data.selection import (
    Selection,
    Survey,
    central_slices,
    lesion_free_slices,
    lesion_slices,
    spread,
    survey,
    unlabelled_slices,
)
from pig_monai.errors import PigError
from tests.data.dbt_objects import build, pixels, save, save_mask
from tests.data.helpers import report, rows

FRAMES = 20


class Masks:
    """Masks as an array (frames, rows, columns)."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def mask(self, index: int) -> np.ndarray:
        return self.array[index].T > 0


def two_lesions(shape: tuple[int, int, int] = (FRAMES, 60, 40)) -> np.ndarray:
    """One on slices 3 to 6 (4, 8, 12 and 8 pixels), one on slices 5 to 8 (10, 6, 16 and 16 pixels)."""
    mask = np.zeros(shape, np.uint8)
    for index, width in zip(range(3, 7), (1, 2, 3, 2), strict=True):
        mask[index, 20:24, 5 : 5 + width] = 1
    for index, (height, width) in zip(range(5, 9), ((5, 2), (3, 2), (4, 4), (4, 4)), strict=True):
        mask[index, 30 : 30 + height, 12 : 12 + width] = 1
    return mask


def look(mask: np.ndarray, pixel: tuple[float, float] = (1.0, 1.0)) -> Survey:
    return survey(Masks(mask), len(mask), pixel)


def test_slices_with_a_lesion_are_counted_by_hand() -> None:
    found = look(two_lesions(), pixel=(0.5, 2.0))  # a pixel is 1 mm²
    assert found.areas == (0, 0, 0, 4, 8, 22, 14, 16, 16, *[0] * 11)
    assert lesion_slices(found, Selection()) == [3, 4, 5, 6, 7, 8]
    assert lesion_slices(found, Selection(min_lesion_area=14)) == [5, 6, 7, 8]
    assert lesion_slices(found, Selection(every_nth=4)) == [3, 7]
    assert lesion_slices(found, Selection(min_lesion_area=5, every_nth=2)) == [4, 6, 8]
    largest = Selection(largest_per_lesion=True)
    assert lesion_slices(found, largest) == [5, 7]  # 12 pixels; 16 on two slices, the first is the lower middle
    assert lesion_slices(found, largest, centres=frozenset({8})) == [5, 8]
    assert lesion_slices(look(two_lesions()), Selection(largest_per_lesion=True, min_lesion_area=16)) == [5, 7]
    assert lesion_slices(look(two_lesions()), Selection(largest_per_lesion=True, min_lesion_area=23)) == []


def test_lesions_are_those_of_a_labelling_in_three_dimensions() -> None:
    """By another library, on random blobs that touch across corners and between slices."""
    for seed in range(5):
        mask = np.random.default_rng(seed).random((8, 15, 12)) > 0.93
        mask[3] = False
        labels, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
        expected = []
        for number in range(1, count + 1):
            areas = (labels == number).sum(axis=(1, 2))
            expected.append({int(i): float(areas[i]) for i in np.flatnonzero(areas)})
        found = list(look(mask).lesions)
        key = lambda lesion: sorted(lesion.items())  # noqa: E731
        assert sorted(found, key=key) == sorted(expected, key=key)


def test_lesion_free_slices_keep_their_distance() -> None:
    found = look(two_lesions())
    assert central_slices(FRAMES) == list(range(2, 18))
    everything = Selection(lesion_free=99, lesion_free_distance=4)
    assert lesion_free_slices(found, everything) == [12, 13, 14, 15, 16, 17]  # 8 + 4 on; 3 − 4 is too low
    assert lesion_free_slices(found, Selection(lesion_free=2, lesion_free_distance=4)) == [13, 16]
    assert lesion_free_slices(found, Selection(lesion_free=1, lesion_free_distance=1)) == [13]
    assert lesion_free_slices(found, everything, also_lesion=frozenset({18})) == [12, 13, 14]
    assert lesion_free_slices(found, Selection()) == []
    empty = look(np.zeros((FRAMES, 4, 4)))
    assert lesion_free_slices(empty, Selection(lesion_free=2)) == [6, 14]


def test_slices_are_spread_evenly() -> None:
    assert spread(range(10), 1) == [5]
    assert spread(range(10), 5) == [1, 3, 5, 7, 9]
    assert spread(range(3), 5) == [0, 1, 2]
    assert spread([], 2) == []
    assert unlabelled_slices(1) == [0]
    assert unlabelled_slices(20) == [4, 8, 12, 16] == spread(range(2, 18), 4)
    assert unlabelled_slices(50) == [7, 12, 17, 22, 27, 32, 37, 42]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A volume with two lesions, one whose mask is empty, one without a mask; each another patient's."""
    folder = tmp_path / "source"
    for name in ("two", "none", "unknown"):
        save(build(pixels(FRAMES), PatientID=name), folder / f"dicom/{name}.dcm")
    save_mask(two_lesions(), folder / "masks/two.nii.gz")
    save_mask(np.zeros((FRAMES, 60, 40), np.uint8), folder / "masks/none.nii.gz")
    return folder


def prepare(source: Path, output: Path, **options: object) -> list[tuple[int, str]]:
    """Prepare; return what was taken: (slice, lesion | lesion_free | unlabelled)."""
    folders = {"input": source / "dicom", "masks": source / "masks", "output": output}
    dicom_to_slices(**(folders | {"size": 32, "min_lesion_area": 0} | options))
    taken = []
    for entry in read_datalist(output)["training"]:
        kind = "unlabelled"
        if "label" in entry:
            kind = "lesion" if entry.get("lesion", True) else "lesion_free"
            assert read_label(output / entry["label"]).any() == (kind == "lesion")
        assert read_slice(output / entry["image"]).max() > 0
        taken.append((entry["slice"], kind))
    return sorted(taken)


def test_by_default_only_lesions_are_taken(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert prepare(source, out) == [(index, "lesion") for index in range(3, 9)]
    assert sorted(row[1] for row in rows(out)) == ["it has no mask", "its mask is empty"]
    assert report(out)["contents"] == {"lesion": 6}
    entry = read_datalist(out)["training"][0]
    assert not {"label_kind", "lesion", "rotated"} & set(entry)


def test_lesion_free_and_unlabelled_slices_are_told_apart(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = {"largest_per_lesion": "true", "lesion_free": 2, "lesion_free_distance": 4, "unlabeled": "True"}
    lesions = [(5, "lesion"), (7, "lesion")]
    lesion_free = [(13, "lesion_free"), (16, "lesion_free"), (6, "lesion_free"), (14, "lesion_free")]
    unlabelled = [(index, "unlabelled") for index in (4, 8, 12, 16)]
    assert prepare(source, out, **options) == sorted(lesions + lesion_free + unlabelled)
    said = report(out)
    assert said["contents"] == {"lesion": 2, "lesion_free": 4, "unlabelled": 4}
    assert said["lesion_area"]["least"] == said["lesion_area"]["largest"]  # of the one volume with lesions
    assert sum(fold["with_lesion"] for fold in said["folds"]) == 1
    assert (out / "report.html").read_text().count("lesion free 4, unlabelled 4") == 1
    assert len(training_entries(out, -1)) == 2
    assert len(training_entries(out, -1, lesion_free=True)) == 6
    assert len(training_entries(out, -1, labelled_only=False)) == 6
    assert len(training_entries(out, -1, labelled_only=False, lesion_free=True)) == 10
    folds = {entry["fold"] for entry in read_datalist(out)["training"]}
    assert len(folds) == 3  # one patient each
    held_out = [heldout_entries(out, fold, labelled_only=False, lesion_free=True) for fold in folds]
    assert sorted(map(len, held_out)) == [2, 4, 4]


def test_without_any_mask_everything_is_unlabelled(source: Path, tmp_path: Path) -> None:
    taken = prepare(source, tmp_path / "out", masks=None, unlabeled=True)
    assert taken == [(index, "unlabelled") for index in (4, 8, 12, 16) for _ in range(3)]
    assert report(tmp_path / "out")["converted"] == 3
    with pytest.raises(PigError, match="no entry with a label"):
        training_entries(tmp_path / "out", -1)


def test_a_blank_slice_is_passed_over_unless_it_holds_a_lesion(source: Path, tmp_path: Path) -> None:
    stored = pixels(FRAMES)
    stored[[4, 8]] = 0
    save(build(stored, PatientID="unknown"), source / "dicom/unknown.dcm")
    options = {"masks": None, "unlabeled": True}
    (source / "dicom/two.dcm").unlink()
    (source / "dicom/none.dcm").unlink()
    assert prepare(source, tmp_path / "a", **options) == [(12, "unlabelled"), (16, "unlabelled")]
    save_mask(two_lesions(), source / "masks/unknown.nii.gz")
    with pytest.raises(PigError, match="no slice could be prepared"):
        prepare(source, tmp_path / "b")
    assert "frame 4 is blank" in [row[1] for row in rows(tmp_path / "b")]


def test_other_selections_are_other_settings(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(source, out)
    for options, expected in [
        ({"every_nth": 2}, "selection#every_nth is 1 there and 2 here"),
        ({"lesion_free": 1}, "selection#lesion_free is 0 there and 1 here"),
        ({"min_lesion_area": 1}, r"selection#min_lesion_area is 0\.0 there and 1\.0 here"),
        ({"first_slice": 1}, "labels#first_slice is None there and 1 here"),
    ]:
        with pytest.raises(PigError, match=expected):
            prepare(source, out, **options)


def test_folders_of_the_first_version_continue(source: Path, tmp_path: Path) -> None:
    """Version 0.1.0 kept one setting of the selection, and records of lesions alone."""
    out = tmp_path / "out"
    before = prepare(source, out, min_lesion_area=1)
    path = out / ".prepared/settings.json"
    settings = json.loads(path.read_text())
    settings["min_lesion_area"] = settings.pop("selection")["min_lesion_area"]
    del settings["labels"]
    path.write_text(json.dumps(settings))
    assert prepare(source, out, min_lesion_area=1) == before
    path.write_text(json.dumps(settings))
    with pytest.raises(PigError, match=r"min_lesion_area is 1\.0 there and 0\.0 here"):
        prepare(source, out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_nth": 0}, "--every_nth is 0"),
        ({"every_nth": 2, "largest_per_lesion": True}, "both --every_nth and --largest_per_lesion"),
        ({"lesion_free": -1}, "--lesion_free is -1"),
        ({"lesion_free_distance": 0}, "--lesion_free_distance is 0"),
        ({"unlabeled": "maybe"}, "--unlabeled is 'maybe'"),
        ({"first_slice": 2}, "--first_slice is 2"),
        ({"file_paths": "x.csv"}, "--file_paths is given without --boxes"),
        ({"masks": None}, "--masks is missing"),
    ],
)
def test_wrong_options_are_named(source: Path, tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(PigError, match=message):
        prepare(source, tmp_path / "out", **options)
