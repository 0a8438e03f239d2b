"""Volumes of every kind that is read, with every kind of label: one file per slice, mammograms, padding."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset

from pig_monai.data.commands import dicom_to_slices
from pig_monai.data.dicom import open_volume
from pig_monai.data.folder import read_datalist, read_label, read_slice
from pig_monai.data.orientation import brighter_edge
from tests.data.dbt_objects import COLUMNS, IDENTITIES, ROWS, build, build_slices, lesion, pixels, save
from tests.data.helpers import assert_nobody_is_named, report, rows
from tests.data.segmentations import WHAT_SEG_COPIES, save_segmentation, segmentation

FRAMES = 12
BOX_HEAD = "PatientID,StudyUID,View,Subject,Slice,X,Y,Width,Height,Class,AD,VolumeSlices"


def truth(frames: int) -> np.ndarray:
    """A mask (frames, rows, columns) that is another one in each slice and flip; the first slice is empty."""
    mask = lesion([1, 3], (frames, ROWS, COLUMNS))
    mask[3, 40:44, 20:23] = 1
    mask[2, 15, 7] = 1
    return mask


def slices(stored: np.ndarray, **options: object) -> list[Dataset]:
    """One object per slice, with what a segmentation copies from it; `InstanceNumber` is the same in all."""
    return build_slices(stored, **(WHAT_SEG_COPIES | options))


def save_all(stack: list[Dataset], folder: Path) -> None:
    """Save slices under names that say nothing about their order."""
    names = random.Random(0).sample(range(1000), len(stack))
    for ds, name in zip(stack, names, strict=True):
        save(ds, folder / f"IM{name:03d}")


def prepare(folder: Path, output: Path, **options: object) -> list[dict]:
    """Slices come out as they are stored."""
    settings = {"size": ROWS, "crop": False, "chest_wall": "keep", "upright": False, "min_lesion_area": 0}
    settings |= options
    dicom_to_slices(input=folder / "dicom", output=output, **settings)
    return read_datalist(output)["training"]


def label(output: Path, entry: dict) -> np.ndarray:
    """The label (rows, columns) of an entry."""
    return read_label(output / entry["label"])[:COLUMNS].T


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
@pytest.mark.parametrize("among", [False, True])
def test_a_segmentation_finds_its_stack_among_the_slices_of_a_series(
    tmp_path: Path, kind: str, among: bool
) -> None:
    """Both breasts, on the same grid, and a stack with a gap share one series; each has a segmentation."""
    series = uid.generate_uid("1.2.826.0.1.3680043.8.498.")
    left, right = (slices(pixels(), series=series, ImageLaterality=side) for side in "LR")
    gap = slices(pixels(frames=5), series=series, ImageLaterality="L", ViewPosition="CC")
    del gap[2]
    masks = tmp_path / ("dicom" if among else "masks")
    order = [2, 0, 3, 1]  # the segmentation's frames need not follow the slices'
    for name, stack, mask in (("a", left, truth(4)), ("b", right, truth(4)[:, ::-1]), ("c", gap, truth(4))):
        save_all(stack, tmp_path / "dicom" / name)
        seg = segmentation([stack[place] for place in order], np.ascontiguousarray(mask[order]), kind)
        references = seg.ReferencedSeriesSequence[0]
        first = stack[0].SOPInstanceUID  # of its empty slice, which other writers leave out
        references.ReferencedInstanceSequence = [
            one for one in references.ReferencedInstanceSequence if one.ReferencedSOPInstanceUID != first
        ]
        save_segmentation(seg, masks / f"mask of {name}")
    entries = prepare(tmp_path, tmp_path / "out", masks=masks)
    assert sorted((e["view"], e["slice"]) for e in entries) == [
        (view, index) for view in ("lmlo", "rmlo") for index in (1, 2, 3)
    ]
    for entry in entries:
        expected = truth(4) if entry["view"] == "lmlo" else truth(4)[:, ::-1]
        np.testing.assert_array_equal(label(tmp_path / "out", entry), expected[entry["slice"]] > 0)
    assert [row[1] for row in rows(tmp_path / "out")] == [
        "its frames lie unevenly, 1.5 to 3 mm apart: some may be missing"  # and nothing on its segmentation
    ]
    assert_nobody_is_named(tmp_path / "out", [*IDENTITIES, series, "mask of"])


def test_a_segmentation_of_an_unusable_stack_labels_no_other_of_its_series(tmp_path: Path) -> None:
    whole = slices(pixels())
    gap = slices(pixels(frames=5), series=whole[0].SeriesInstanceUID, ImageLaterality="R")
    del gap[4], gap[2]
    save_all(whole, tmp_path / "dicom/a")
    save_all(gap, tmp_path / "dicom/b")
    save_segmentation(segmentation(gap, truth(5)[[0, 1, 3]]), tmp_path / "masks/b.dcm")  # it would fit the grid
    entries = prepare(tmp_path, tmp_path / "out", masks=tmp_path / "masks", unlabeled=True)
    assert {entry["view"] for entry in entries} == {"lmlo"}
    assert not [entry for entry in entries if "label" in entry]
    assert [row[1] for row in rows(tmp_path / "out")] == [
        "its frames lie unevenly, 1.5 to 3 mm apart: some may be missing"
    ]


def test_a_segmentation_in_another_frame_of_reference_than_the_slices_is_refused(tmp_path: Path) -> None:
    stack = slices(pixels())
    save_all(stack, tmp_path / "dicom/a")
    save_all(slices(pixels(), PatientID="other"), tmp_path / "dicom/b")
    for ds in stack:
        ds.FrameOfReferenceUID += "1"
    save_segmentation(segmentation(stack, truth(4)), tmp_path / "masks/a.dcm")
    entries = prepare(tmp_path, tmp_path / "out", masks=tmp_path / "masks", unlabeled=True)
    assert not [entry for entry in entries if "label" in entry]
    ((_, reason, _),) = rows(tmp_path / "out")
    assert "lies in another frame of reference than the volume (40 × 60 × 4 voxels" in reason


@pytest.mark.parametrize(
    ("numbers", "places"),
    [
        ([12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1], range(FRAMES)[::-1]),  # slices are numbered from above
        ([5] * FRAMES, range(FRAMES)),
        ([None] * FRAMES, range(FRAMES)),
    ],
)
def test_pictures_and_boxes_count_the_slices_by_instance_number(
    tmp_path: Path, numbers: list[int | None], places: range
) -> None:
    """``places``: where the slice of each number lies."""
    for name, patient in (("a", "P1"), ("b", "P2")):
        stack = slices(pixels(FRAMES), PatientID=patient, StudyID="S")
        for ds, number in zip(stack, numbers, strict=True):
            ds.InstanceNumber = number
        save_all(stack, tmp_path / "dicom" / name)
    mask = truth(FRAMES)[3]
    (tmp_path / "masks/a").mkdir(parents=True)
    Image.fromarray(mask * np.uint8(255)).save(tmp_path / "masks/a/2.png")
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(f"{BOX_HEAD}\nP2,S,lmlo,0,2,8,20,2,2,benign,0,{FRAMES}\n")  # one slice either way
    paths = tmp_path / "paths.csv"
    paths.write_text("PatientID,StudyUID,View,descriptive_path\nP2,S,lmlo,dicom/b/IM864\n")  # any of its slices
    assert (tmp_path / "dicom/b/IM864").is_file()
    for given in ({}, {"file_paths": paths}):
        out = tmp_path / f"out{len(given)}"
        entries = prepare(tmp_path, out, masks=tmp_path / "masks", boxes=boxes, first_slice=0, **given)
        by_picture = [e for e in entries if "label_kind" not in e]
        by_box = [e for e in entries if e.get("label_kind") == "box"]
        assert [e["slice"] for e in by_picture] == [places[2]]
        np.testing.assert_array_equal(label(out, by_picture[0]), mask > 0)
        assert sorted(e["slice"] for e in by_box) == [places[2] - 1, places[2], places[2] + 1]
        expected = np.zeros((ROWS, COLUMNS), bool)
        expected[20:22, 8:10] = True  # every pixel of a box of 2 × 2 has its centre in the ellipse
        for entry in by_box:
            np.testing.assert_array_equal(label(out, entry), expected)
        assert rows(out) == []


@pytest.mark.parametrize("intercept", [0, -3000])
def test_a_padded_volume_is_turned_upright_for_its_boxes(tmp_path: Path, intercept: int) -> None:
    """Padding, brighter than anything, frames each volume and covers its air: it says nothing about the side."""
    upright = pixels(FRAMES)
    upright[upright == 0] = 20
    upright[:, :, 36:] = 4095  # behind the nipple
    upright[:, :, :2] = 4095  # beyond the chest wall
    upright[:, :3] = 4095
    padded = {"PixelPaddingValue": 4095, "RescaleSlope": 1, "RescaleIntercept": intercept, "StudyID": "S"}
    window = {"WindowCenter": 1000 + intercept, "WindowWidth": 2000, "VOILUTFunction": "SIGMOID"}
    turned = np.ascontiguousarray(upright[:, ::-1, ::-1])
    for patient, stored in (("P1", upright), ("P2", turned)):
        save(build(stored, PatientID=patient, **padded, **window), tmp_path / f"dicom/{patient}.dcm")
    volumes = {name: open_volume([tmp_path / f"dicom/{name}.dcm"]) for name in ("P1", "P2")}
    assert [brighter_edge(volumes[name].frame(5)) for name in ("P1", "P2")] == ["left", "right"]
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("\n".join([BOX_HEAD, *(f"{p},S,lmlo,0,4,8,20,6,10,benign,0,12" for p in ("P1", "P2"))]))
    entries = prepare(tmp_path, tmp_path / "out", boxes=boxes, intensity="window")
    assert sorted((e.get("rotated", False), e["slice"]) for e in entries) == [
        (rotated, index) for rotated in (False, True) for index in range(2, 7)
    ]
    columns, down = np.meshgrid(np.arange(COLUMNS) + 0.5, np.arange(ROWS) + 0.5)
    ellipse = ((columns - 11) / 3) ** 2 + ((down - 25) / 5) ** 2 <= 1
    for entry in entries:
        np.testing.assert_array_equal(label(tmp_path / "out", entry), ellipse)
        stored = upright[entry["slice"]].astype(float)
        shown = 2 / (1 + np.exp(-4 * (stored - 1000) / 2000)) - 1  # PS3.3 C.11.2.1.3.1
        shown[stored == 4095] = -1
        image = read_slice(tmp_path / "out" / entry["image"])[:COLUMNS].T
        np.testing.assert_allclose(image, shown, atol=4e-5)
    assert report(tmp_path / "out")["rotated"] == 1


def test_a_padded_edge_is_no_side() -> None:
    frame = np.zeros((6, 4), np.float32)
    frame[1, :3] = 5
    assert brighter_edge(frame[1:]) == "left"
    assert brighter_edge(frame[1:][::-1]) == "right"
    frame[0] = np.nan
    assert brighter_edge(frame) == "left"
    assert brighter_edge(frame[::-1]) == "right"
    frame -= 1000  # padding is not brighter than air for being no number
    frame[5, 1:] = np.nan
    assert brighter_edge(frame) == "left"
    assert brighter_edge(frame[::-1]) == "right"
    assert brighter_edge(np.full((6, 4), np.nan)) == "left"


def test_a_mammogram_takes_a_picture_for_a_mask(tmp_path: Path) -> None:
    (ds,) = build_slices(pixels(frames=1), sop_class=uid.DigitalMammographyXRayImageStorageForPresentation)
    save(ds, tmp_path / "dicom/left")
    (tmp_path / "masks").mkdir()
    mask = truth(4)[3]
    Image.fromarray(mask * np.uint8(255)).save(tmp_path / "masks/left.png")
    (entry,) = prepare(tmp_path, tmp_path / "out", masks=tmp_path / "masks", mammograms=True)
    np.testing.assert_array_equal(label(tmp_path / "out", entry), mask > 0)
