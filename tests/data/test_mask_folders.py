"""Every kind of mask through the command: which volume it labels, and what is said of those that label none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (the name its manual gives it)
from PIL import Image

from pig_monai.data.commands import dicom_to_slices
from pig_monai.data.folder import read_datalist, read_label
from pig_monai.errors import PigError
from tests.data.dbt_objects import COLUMNS, IDENTITIES, ORIGIN, ROWS, SPACING, lesion, pixels, save, save_mask
from tests.data.helpers import assert_nobody_is_named, contents, report, rows
from tests.data.segmentations import save_segmentation, segmentation, source

ORDER = [2, 0, 3, 1]
TRUTH = lesion([1, 3])
TRUTH[3, 30:40, 10:22] = 1


def write_picture(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask * np.uint8(255)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One volume of each of six patients, its frames stored out of order, with one kind of mask each."""
    folder = tmp_path / "source"
    volumes = {}
    for name in ("nifti", "nrrd", "seg", "fraction", "pictures", "subfolder"):
        volumes[name] = source(pixels()[ORDER], order=ORDER, PatientID=name, laterality="L")
        save(volumes[name], folder / f"dicom/{name}.dcm")
    save_mask(TRUTH, folder / "masks/nifti.nii.gz")
    image = sitk.GetImageFromArray(TRUTH)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    sitk.WriteImage(image, str(folder / f"masks/{volumes['nrrd'].SeriesInstanceUID}.seg.nrrd"))
    save_segmentation(segmentation(volumes["seg"], TRUTH[ORDER]), folder / "masks/any name")
    half = TRUTH[ORDER] * np.float32(0.6)
    save_segmentation(segmentation(volumes["fraction"], half, "FRACTIONAL"), folder / "masks/1-1.dcm")
    for place, frame in enumerate(ORDER):
        write_picture(folder / f"masks/pictures_{place + 1}.png", TRUTH[frame])
        if TRUTH[frame].any():
            write_picture(folder / f"masks/subfolder/{place:03d}.png", TRUTH[frame])
    return folder


def prepare(folder: Path, output: Path, **options: object) -> list[dict]:
    settings = {"size": ROWS, "crop": False, "chest_wall": "keep", "first_slice": None} | options
    dicom_to_slices(**({"input": folder / "dicom", "masks": folder / "masks", "output": output} | settings))
    return read_datalist(output)["training"]


def check_labels(output: Path, entries: list[dict], patients: int) -> None:
    """Each patient's slices 1 and 3 carry the truth."""
    assert sorted(entry["slice"] for entry in entries) == [1] * patients + [3] * patients
    assert len({entry["patient"] for entry in entries}) == patients
    for entry in entries:
        label = read_label(output / entry["label"])[:COLUMNS].T
        np.testing.assert_array_equal(label, TRUTH[entry["slice"]] > 0)


def test_every_kind_of_mask_labels_its_volume(folder: Path, tmp_path: Path) -> None:
    (folder / "masks/subfolder/000.png").unlink(missing_ok=True)  # numbered 1 and 2: which is the first?
    entries = prepare(folder, tmp_path / "out", log=tmp_path / "log")
    check_labels(tmp_path / "out", entries, patients=5)
    ((_, reason, remedy),) = rows(tmp_path / "out")
    assert "from 0 or from 1" in reason
    assert remedy == "give --first_slice 0 or --first_slice 1"
    names = [*IDENTITIES, "any name", "subfolder", "nifti", str(folder)]
    assert_nobody_is_named(tmp_path / "out", [name for name in names if name != "nifti"])


def test_the_first_slice_can_be_said(folder: Path, tmp_path: Path) -> None:
    for picture in (folder / "masks").glob("pictures_*"):
        picture.rename(picture.with_name(f"pictures_{int(picture.stem[-1]) - 1}.png"))
    check_labels(tmp_path / "out", prepare(folder, tmp_path / "out", first_slice=0), patients=6)


def test_masks_may_lie_among_the_volumes(folder: Path, tmp_path: Path) -> None:
    for path in (folder / "masks").iterdir():
        if path.name != "subfolder":
            path.rename(folder / "dicom" / path.name)
    entries = prepare(folder, tmp_path / "out", masks=folder / "dicom")
    check_labels(tmp_path / "out", entries, patients=5)
    assert [row[1] for row in rows(tmp_path / "out")] == ["it has no mask"]


def test_masks_of_one_volume_are_merged_whatever_their_kind(folder: Path, tmp_path: Path) -> None:
    other = np.zeros_like(TRUTH)
    other[0, 25:35, 2:20] = 1
    save_mask(other, folder / "masks/seg.nii.gz")
    (folder / "masks/subfolder").rename(tmp_path / "away")
    entries = prepare(folder, tmp_path / "out")
    assert len(entries) == 11
    (entry,) = (entry for entry in entries if entry["slice"] == 0)
    np.testing.assert_array_equal(read_label(tmp_path / "out" / entry["label"])[:COLUMNS].T, other[0] > 0)


def test_a_segmentation_belongs_to_the_series_that_it_references(folder: Path, tmp_path: Path) -> None:
    absent = source(order=ORDER)
    save_segmentation(segmentation(absent, TRUTH[ORDER]), folder / "masks/pictures.dcm")  # named like another's
    save_segmentation(segmentation(absent, TRUTH[ORDER]), folder / "dicom/stray.dcm")
    (folder / "masks/notes.txt").write_text("Roe^Jane")
    (folder / "masks/subfolder").rename(tmp_path / "away")
    entries = prepare(folder, tmp_path / "out")
    check_labels(tmp_path / "out", entries, patients=5)
    assert sorted(row[1] for row in rows(tmp_path / "out")) == [
        "a segmentation, not a volume",
        "it has no mask",
        "not a mask",
        "the segmentation references a series that is not among the volumes",
    ]
    assert_nobody_is_named(tmp_path / "out", [*IDENTITIES, "notes", "stray"])


def test_volumes_that_share_a_series_are_told_by_instance(tmp_path: Path) -> None:
    first = source(order=ORDER)
    second = source(order=ORDER, SeriesInstanceUID=first.SeriesInstanceUID, ViewPosition="CC")
    for name, volume in (("a", first), ("b", second)):
        save(volume, tmp_path / f"dicom/{name}.dcm")
    save_segmentation(segmentation(second, TRUTH[ORDER]), tmp_path / "masks/a.dcm")
    entries = prepare(tmp_path, tmp_path / "out")
    assert [(entry["view"], entry["slice"]) for entry in entries] == [("lcc", 1), ("lcc", 3)]


def test_a_mask_that_does_not_fit_its_volume_is_a_row(folder: Path, tmp_path: Path) -> None:
    for path in sorted((folder / "dicom").glob("*.dcm")):
        if path.stem not in ("seg", "nifti"):
            path.unlink()
    moved = source(order=ORDER, FrameOfReferenceUID="1.2.826.0.1.3680043.8.498.78", PatientID="seg")
    save(moved, folder / "dicom/seg.dcm")
    inside = source(order=ORDER, SeriesInstanceUID=moved.SeriesInstanceUID)
    save_segmentation(segmentation(inside, TRUTH[ORDER]), folder / "masks/any name")
    entries = prepare(folder, tmp_path / "out")
    check_labels(tmp_path / "out", entries, patients=1)
    assert any("lies in another frame of reference" in row[1] for row in rows(tmp_path / "out"))
    assert report(tmp_path / "out")["converted"] == 1


def test_a_changed_picture_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "masks/subfolder").rename(tmp_path / "away")
    prepare(folder, tmp_path / "out")
    before = contents(tmp_path / "out")
    prepare(folder, tmp_path / "out", workers=2)
    assert contents(tmp_path / "out") == before
    write_picture(folder / "masks/pictures_1.png", TRUTH[1])
    with pytest.raises(PigError, match=r"pictures\.dcm or its mask changed"):
        prepare(folder, tmp_path / "out")
