"""One file per slice, and mammograms."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (the name its manual gives it)
from pydicom import uid
from pydicom.dataset import Dataset

from pig_monai.data.commands import dicom_to_slices
from pig_monai.data.dicom import open_volume
from pig_monai.data.folder import read_datalist, read_label, read_slice
from pig_monai.errors import PigError
from tests.data.dbt_objects import (
    COLUMNS,
    FRAMES,
    IDENTITIES,
    ROWS,
    build,
    build_slices,
    lesion,
    pixels,
    save,
    save_mask,
)
from tests.data.helpers import assert_as_itk_reads_it, assert_nobody_is_named, contents, report, rows

MAMMOGRAM = uid.DigitalMammographyXRayImageStorageForPresentation
WHOLE = {"crop": False, "chest_wall": "keep", "size": ROWS, "intensity": "window"}
WINDOW = {"WindowCenter": 1000, "WindowWidth": 2000, "VOILUTFunction": "LINEAR_EXACT"}


def save_all(slices: list[Dataset], folder: Path, seed: int = 0) -> list[Path]:
    """Save slices under names that say nothing about their order."""
    names = random.Random(seed).sample(range(1000), len(slices))
    return [save(ds, folder / f"IM{name:03d}") for ds, name in zip(slices, names, strict=True)]


def prepare(folder: Path, name: str = "out", **options: object) -> list[dict]:
    dicom_to_slices(input=folder / "dicom", masks=folder / "masks", output=folder / name, **(WHOLE | options))
    return read_datalist(folder / name)["training"]


def assert_prepared(entries: list[dict], out: Path, frames: list[int], mask: np.ndarray) -> None:
    """Every slice with mask came out as encoded, through the window 0 … 2000."""
    assert [entry["slice"] for entry in entries] == frames
    for entry in entries:
        expected = np.clip(pixels()[entry["slice"]].astype(float) / 1000 - 1, -1, 1)
        np.testing.assert_allclose(read_slice(out / entry["image"])[:COLUMNS].T, expected, atol=2e-5)
        np.testing.assert_array_equal(read_label(out / entry["label"])[:COLUMNS].T, mask[entry["slice"]] > 0)


@pytest.mark.parametrize("sop_class", [uid.CTImageStorage, MAMMOGRAM])
@pytest.mark.parametrize("mask_name", ["folder", "series"])
def test_a_folder_of_slices_is_a_volume(tmp_path: Path, sop_class: str, mask_name: str) -> None:
    slices = build_slices(pixels(), sop_class=sop_class, **WINDOW)
    for ds, syntax in zip(slices[:3], (uid.JPEG2000Lossless, uid.RLELossless, uid.JPEGLSLossless), strict=True):
        ds.compress(syntax, generate_instance_uid=False)
    save_all(slices, tmp_path / "dicom/patient/left.1.5")
    name = "left.1.5" if mask_name == "folder" else slices[0].SeriesInstanceUID
    save_mask(lesion([1, 3]), tmp_path / f"masks/{name}.nii.gz")
    entries = prepare(tmp_path)
    assert_prepared(entries, tmp_path / "out", [1, 3], lesion([1, 3]))
    assert (entries[0]["view"], entries[0]["laterality"], entries[0]["spacing"]) == ("lmlo", "L", [0.5, 0.25])
    assert rows(tmp_path / "out") == []
    assert report(tmp_path / "out")["converted"] == 1
    assert_nobody_is_named(tmp_path / "out", [*IDENTITIES, "left.1.5"])
    before = contents(tmp_path / "out")
    prepare(tmp_path)
    assert contents(tmp_path / "out") == before


def test_slices_in_the_input_folder_itself_are_called_after_it(tmp_path: Path) -> None:
    save_all(build_slices(pixels(), **WINDOW), tmp_path / "dicom")
    save_mask(lesion([2]), tmp_path / "masks/dicom.nii.gz")
    assert_prepared(prepare(tmp_path), tmp_path / "out", [2], lesion([2]))


def test_geometry_and_slices_agree_with_itk(tmp_path: Path) -> None:
    slices = build_slices(pixels())
    along, down = np.array([0, -1, 0.0]), np.array([-1, 0, -1]) / np.sqrt(2)
    for place, ds in enumerate(slices):
        ds.ImageOrientationPatient = [*along, *down]
        ds.ImagePositionPatient = [*(np.array([9.0, 8, 7]) + 1.5 * place * np.cross(along, down))]
    paths = save_all(slices, tmp_path / "s")
    volume = open_volume(sorted(paths))  # not in geometric order
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "s")))
    by_itk = reader.Execute()
    assert_as_itk_reads_it(volume, by_itk)


def test_each_slice_s_own_rescale_counts(tmp_path: Path) -> None:
    slices = build_slices(pixels())
    for place, ds in enumerate(slices):
        ds.RescaleSlope, ds.RescaleIntercept = 1 + place, -5
    volume = open_volume(save_all(slices, tmp_path))
    for index in range(FRAMES):
        np.testing.assert_array_equal(volume.frame(index).T, pixels()[index] * float(1 + index) - 5)


def test_a_series_of_two_stacks_is_two_volumes(tmp_path: Path) -> None:
    """Both breasts in one series, and a third stack of another size."""
    series = uid.generate_uid()
    left = build_slices(pixels(), series=series, **WINDOW)
    right = build_slices(pixels(), series=series, ImageLaterality="R", **WINDOW)
    small = build_slices(pixels(rows=30), series=series, ViewPosition="CC", **WINDOW)
    for name, slices in (("left", left), ("right", right), ("small", small)):
        save_all(slices, tmp_path / "dicom" / name)
    save_mask(lesion([1]), tmp_path / "masks/left.nii.gz")
    save_mask(lesion([2]), tmp_path / "masks/right.nii.gz")
    save_mask(lesion([3])[:, :30], tmp_path / "masks/small.nii.gz")
    entries = prepare(tmp_path)
    assert sorted((e["view"], e["slice"]) for e in entries) == [("lcc", 3), ("lmlo", 1), ("rmlo", 2)]
    assert report(tmp_path / "out")["converted"] == 3


def test_what_is_no_whole_stack_is_skipped_with_its_reason(tmp_path: Path) -> None:
    save_all(build_slices(pixels(), **WINDOW), tmp_path / "dicom/whole")
    gap = build_slices(pixels(frames=5))
    save_all(gap[:2] + gap[3:], tmp_path / "dicom/gap")
    double = build_slices(pixels())
    double[2].ImagePositionPatient = double[1].ImagePositionPatient
    save_all(double, tmp_path / "dicom/double")
    save_all(build_slices(pixels(frames=1)), tmp_path / "dicom/lone")
    mixed = build_slices(pixels())
    mixed[1:2] = build_slices(pixels(rows=30)[1:2], series=mixed[0].SeriesInstanceUID)
    mixed[1].ImagePositionPatient = [10, -20, 31.5]
    save_all(mixed, tmp_path / "dicom/mixed")
    copied = tmp_path / "dicom/whole/copy"
    copied.write_bytes(next(path for path in (tmp_path / "dicom/whole").iterdir()).read_bytes())
    for name in ("whole", "gap", "double", "lone", "mixed"):
        save_mask(lesion([1]), tmp_path / f"masks/{name}.nii.gz")
    assert_prepared(prepare(tmp_path), tmp_path / "out", [1], lesion([1]))
    assert sorted(reason for _, reason, _ in rows(tmp_path / "out")) == [
        "1 of its frames lie where another one lies",
        "a copy of a slice that was read already",
        "a single slice, without the others of its stack",
        "a single slice, without the others of its stack",
        "its frames lie unevenly, 1.5 to 3 mm apart: some may be missing",
        "its frames lie unevenly, 1.5 to 3 mm apart: some may be missing",
    ]
    assert all(remedy for _, _, remedy in rows(tmp_path / "out"))


def test_a_broken_slice_skips_its_volume_only(tmp_path: Path) -> None:
    for name in ("whole", "broken"):
        paths = save_all(build_slices(pixels(), **WINDOW), tmp_path / "dicom" / name)
        save_mask(lesion([1]), tmp_path / f"masks/{name}.nii.gz")
    paths[3].write_bytes(paths[3].read_bytes()[:-100])
    assert_prepared(prepare(tmp_path), tmp_path / "out", [1], lesion([1]))
    assert rows(tmp_path / "out") == [
        (
            "lmlo",
            "its pixel data is incomplete: 0 of 1 frames",
            "copy it again, or ask the site to send it again: the transfer was cut off",
        )
    ]


def test_an_added_slice_is_a_changed_volume(tmp_path: Path) -> None:
    slices = build_slices(pixels())
    paths = save_all(slices, tmp_path / "dicom/v")
    taken = paths[3].read_bytes()
    paths[3].unlink()
    save_mask(lesion([1])[:3], tmp_path / "masks/v.nii.gz")
    prepare(tmp_path, intensity="percentile")
    paths[3].write_bytes(taken)
    with pytest.raises(PigError, match="or its mask changed since it was prepared"):
        prepare(tmp_path, intensity="percentile")


def test_mammograms_are_used_on_request_only(tmp_path: Path) -> None:
    shown, raw = (
        build(
            pixels()[:1],
            SOPClassUID=sop_class,
            ImageLaterality="L",
            ViewPosition=view,
            ImagerPixelSpacing=[0.25, 0.5],
            **WINDOW,
        )
        for sop_class, view in ((MAMMOGRAM, "CC"), (uid.DigitalMammographyXRayImageStorageForProcessing, "MLO"))
    )
    for name, ds in (("shown", shown), ("raw", raw)):
        del ds.NumberOfFrames, ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence
        save(ds, tmp_path / f"dicom/{name}")
        save_mask(lesion([0])[:1], tmp_path / f"masks/{name}.nii.gz", np.eye(4))
    save(build(pixels(), **WINDOW), tmp_path / "dicom/volume")
    save_mask(lesion([2]), tmp_path / "masks/volume.nii.gz")
    entries = prepare(tmp_path)
    assert_prepared(entries, tmp_path / "out", [2], lesion([2]))
    remedy = "give --mammograms true to use mammograms as well"
    assert sorted(rows(tmp_path / "out")) == [
        ("lcc", "a two-dimensional mammogram", remedy),
        ("lmlo", "a two-dimensional mammogram", remedy),
    ]
    entries = prepare(tmp_path, "both", mammograms="True")
    assert_prepared([e for e in entries if e["slice"] == 0], tmp_path / "both", [0, 0], lesion([0]))
    assert sorted((e["view"], e["slice"], tuple(e["spacing"])) for e in entries) == [
        ("lcc", 0, (0.5, 0.25)),
        ("lmlo", 0, (0.5, 0.25)),
        ("lmlo", 2, (0.5, 0.25)),
    ]
    assert rows(tmp_path / "both") == []
    assert any("Imager Pixel Spacing" in warning for warning in report(tmp_path / "both")["warnings"])


def test_a_folder_of_nothing_usable_says_why(tmp_path: Path) -> None:
    ds = build(pixels(), SOPClassUID=uid.SecondaryCaptureImageStorage, Manufacturer="HOLOGIC, Inc.")
    save(ds, tmp_path / "dicom/v")
    (tmp_path / "masks").mkdir()
    with pytest.raises(PigError) as caught:
        prepare(tmp_path)
    assert "1 of 1 files skipped because: a secondary capture, which has its slices in" in str(caught.value)
    assert str(caught.value).endswith("ask the site for a Breast Tomosynthesis (BTO) export instead of SCO")


def test_functional_groups_in_a_single_frame_do_not_make_it_a_slice(tmp_path: Path) -> None:
    """A Breast Tomosynthesis object of one frame is a volume of its own."""
    save(build(pixels()[:1], **WINDOW), tmp_path / "dicom/one.dcm")
    save_mask(lesion([0])[:1], tmp_path / "masks/one.nii.gz")
    assert_prepared(prepare(tmp_path), tmp_path / "out", [0], lesion([0]))
