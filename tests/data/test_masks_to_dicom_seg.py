"""The command: which mask goes with which series; what is written, kept, replaced, refused; and the way back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import SecondaryCaptureImageStorage

from pig_monai.data.commands import dicom_to_slices
from pig_monai.data.phantom_dicom import write_phantom
from pig_monai.data.seg_command import masks_to_dicom_seg
from pig_monai.errors import PigError
from tests.conftest import ROOT
from tests.data.dbt_objects import affine, build_slices, lesion, pixels, save, save_mask
from tests.data.helpers import contents
from tests.data.segmentations import WHAT_SEG_COPIES, source
from tests.data.written_segs import by_hand, mammogram


def run(series: Path, mask: Path, output: Path, **options: Any) -> None:
    masks_to_dicom_seg(series=str(series), mask=str(mask), output=str(output), **options)


def failure(series: Path, mask: Path, output: Path, **options: Any) -> str:
    with pytest.raises(PigError) as caught:
        run(series, mask, output, **options)
    return str(caught.value)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    return save(source(), tmp_path / "dicom" / "one.dcm")


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    return save_mask(lesion([1, 2]), tmp_path / "masks" / "one.nii.gz")


def test_labels_made_from_the_segmentations_are_those_of_the_masks(tmp_path: Path) -> None:
    """The way back: dicom_to_slices gives the same bytes for DICOM SEG as for the NIfTI it was made of."""
    write_phantom(tmp_path / "phantom", patients=5, seed=3, slices=6, rows=99, columns=61, compression="j2k")
    dicom, masks = tmp_path / "phantom/dicom", tmp_path / "phantom/masks"
    run(dicom, masks, tmp_path / "segs")
    (tmp_path / "key").write_text("secret")
    labels = {}
    for name, folder in (("nifti", masks), ("seg", tmp_path / "segs")):
        dicom_to_slices(
            input=str(dicom), masks=str(folder), output=str(tmp_path / name), size=64, key=str(tmp_path / "key")
        )
        labels[name] = contents(tmp_path / name / "labels")
    assert 0 < len(files(tmp_path / "segs")) < len(files(dicom))  # one patient has no mass: no file
    assert len(labels["nifti"]) > 5
    assert labels["seg"] == labels["nifti"]


def test_labels_of_mammograms_come_back_too(tmp_path: Path) -> None:
    save(mammogram(), tmp_path / "dicom" / "m.dcm")
    drawn = np.zeros((59, 37), np.uint8)
    drawn[12:30, 5:9] = 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(drawn).save(tmp_path / "masks" / "m.png")
    run(tmp_path / "dicom", tmp_path / "masks", tmp_path / "segs")
    (tmp_path / "key").write_text("secret")
    for name in ("masks", "segs"):
        dicom_to_slices(
            input=str(tmp_path / "dicom"), masks=str(tmp_path / name), output=str(tmp_path / f"{name}.set"),
            mammograms=True, size=32, min_lesion_area=0.1, key=str(tmp_path / "key"),
        )  # fmt: skip
    labels = [contents(tmp_path / f"{name}.set" / "labels") for name in ("masks", "segs")]
    assert len(labels[0]) == 1
    assert labels[0] == labels[1]


def test_each_mask_finds_its_series(tmp_path: Path) -> None:
    """By stem, with more behind it, by SeriesInstanceUID, and by folder for one file per slice."""
    sources = {}
    for name in ("a", "a_2", "b", "sub/c"):
        sources[name] = source()
        save(sources[name], tmp_path / "dicom" / f"{name}.dcm")
    slices = build_slices(pixels(), **WHAT_SEG_COPIES)
    for number, ds in enumerate(slices):
        save(ds, tmp_path / "dicom" / "1.2.3" / f"{number}.dcm")
    stems = ("a_seg", "a_2", str(sources["b"].SeriesInstanceUID), "sub/c_trans", "1.2.3")
    for stem in stems:
        save_mask(lesion([1]), tmp_path / "masks" / f"{stem}.nii.gz")
    run(tmp_path / "dicom", tmp_path / "masks", tmp_path / "segs")
    expected = ["1.2.3_seg.dcm", "a_2_seg.dcm", "a_seg.dcm", "b_seg.dcm", "sub/c_seg.dcm"]
    assert files(tmp_path / "segs") == expected
    for name, ds in sources.items():
        seg = pydicom.dcmread(tmp_path / "segs" / f"{name}_seg.dcm")
        assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == ds.SeriesInstanceUID
        assert seg.StudyInstanceUID == ds.StudyInstanceUID
    seg = pydicom.dcmread(tmp_path / "segs" / "1.2.3_seg.dcm")
    assert list(by_hand(seg)) == [(slices[1].SOPInstanceUID, 1)]


def test_a_single_mask_may_have_any_name(tmp_path: Path, volume: Path, mask: Path) -> None:
    mask = mask.rename(mask.with_name("prediction.nii.gz"))
    run(volume, mask, tmp_path / "x.dcm")
    run(volume.parent, mask, tmp_path / "folder")
    assert files(tmp_path / "folder") == ["one_seg.dcm"]
    assert (tmp_path / "x.dcm").read_bytes() == (tmp_path / "folder/one_seg.dcm").read_bytes()
    other = source()
    save(other, tmp_path / "dicom" / "other.dcm")
    told = failure(volume.parent, mask, tmp_path / "y.dcm")
    assert f"{mask}: the mask fits no volume, or several" in told
    run(volume.parent, mask, tmp_path / "y.dcm", series_uid=other.SeriesInstanceUID)
    assert pydicom.dcmread(tmp_path / "y.dcm").ReferencedSeriesSequence[0].SeriesInstanceUID == (
        other.SeriesInstanceUID
    )
    assert "has the SeriesInstanceUID 1.2" in failure(volume.parent, mask, tmp_path / "z.dcm", series_uid="1.2")


def test_series_of_one_name_do_not_replace_each_other(tmp_path: Path) -> None:
    for name in ("one", "one.dcm"):
        ds = source()
        save(ds, tmp_path / "dicom" / name)
        save_mask(lesion([1]), tmp_path / "masks" / f"{ds.SeriesInstanceUID}.nii.gz")
    told = failure(tmp_path / "dicom", tmp_path / "masks", tmp_path / "segs", overwrite=True)
    assert "one_seg.dcm" in told
    assert not (tmp_path / "segs").exists()


def test_slices_in_the_folder_that_is_given(tmp_path: Path, mask: Path) -> None:
    for number, ds in enumerate(build_slices(pixels(), **WHAT_SEG_COPIES)):
        save(ds, tmp_path / "IM" / f"{number}")
    run(tmp_path / "IM", mask, tmp_path / "segs")
    assert files(tmp_path / "segs") == ["IM_seg.dcm"]


def test_repeated_run_keeps_what_is_there(tmp_path: Path, volume: Path, mask: Path, capsys: Any) -> None:
    out = tmp_path / "one_seg.dcm"
    run(volume, mask, out)
    first = out.read_bytes()
    os.utime(out, (1, 1))
    run(volume, mask, out)
    assert out.stat().st_mtime == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 there already")
    out.unlink()
    run(volume, mask, out)
    assert out.read_bytes() == first


def test_another_segmentation_is_replaced_only_when_told(tmp_path: Path, volume: Path, mask: Path) -> None:
    out = tmp_path / "one_seg.dcm"
    run(volume, mask, out)
    first = out.read_bytes()
    save_mask(lesion([3]), mask)
    assert "holds another segmentation" in failure(volume, mask, out)
    run(volume, mask, out, overwrite="true", dry_run=True)
    assert out.read_bytes() == first
    run(volume, mask, out, overwrite="true")
    (frame,) = by_hand(pydicom.dcmread(out))
    assert frame[1] == 4
    before = volume.read_bytes()
    assert "is no segmentation" in failure(volume, mask, volume, overwrite=True)  # the series itself
    assert volume.read_bytes() == before


def test_empty_mask_gives_no_file(tmp_path: Path, volume: Path, mask: Path, capsys: Any) -> None:
    out = tmp_path / "one_seg.dcm"
    run(volume, mask, out)
    save_mask(lesion([]), mask)
    assert "holds another segmentation" in failure(volume, mask, out)
    assert out.exists()
    run(volume, mask, out, overwrite=True)  # it would go on showing a mass
    assert not out.exists()
    run(volume, mask, out)
    assert not out.exists()
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 empty, without a file")


def test_dry_run_checks_and_writes_nothing(tmp_path: Path, volume: Path, mask: Path, capsys: Any) -> None:
    run(volume, mask, tmp_path / "segs", dry_run="true")
    assert not (tmp_path / "segs").exists()
    assert capsys.readouterr().out.startswith("1 to write")
    save_mask(lesion([1])[:, 1:], mask)
    assert "the mask's grid is 40 × 59 × 4 voxels" in failure(volume, mask, tmp_path / "segs", dry_run=True)


def test_what_does_not_fit_is_told_and_the_others_are_written(tmp_path: Path, mask: Path, capsys: Any) -> None:
    save(source(), tmp_path / "dicom" / "one.dcm")
    save(source(), tmp_path / "dicom" / "two.dcm")
    uneven = source(order=[0, 1, 2, 7])
    save(uneven, tmp_path / "dicom" / "three.dcm")
    save(source(StudyInstanceUID=""), tmp_path / "dicom" / "five.dcm")
    save(source(SOPClassUID=SecondaryCaptureImageStorage), tmp_path / "dicom" / "six.dcm")
    for name in ("three", "four", "five", "six"):
        save_mask(lesion([1]), tmp_path / "masks" / f"{name}.nii.gz")
    shifted = affine()
    shifted[0, 3] += 2
    save_mask(lesion([1]), tmp_path / "masks" / "two.nii.gz", shifted)
    told = failure(tmp_path / "dicom", tmp_path / "masks", tmp_path / "segs")
    assert told.startswith("5 masks were not written")
    assert files(tmp_path / "segs") == ["one_seg.dcm"]
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("not written")]
    reasons = {
        "two.nii.gz": "the mask's grid is",
        "three.dcm": "its frames lie unevenly",
        "four.nii.gz": "the mask fits no volume",
        "five.dcm": "its header lacks StudyInstanceUID",
        "six.nii.gz": "its series cannot be used: a secondary capture",
    }
    for name, reason in reasons.items():
        (line,) = [line for line in lines if name in line]
        assert reason in line


def test_a_dataset_folder_is_no_place_for_it(tmp_path: Path, volume: Path, mask: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "datalist.json").write_text("{}")
    for output in (tmp_path / "set", tmp_path / "set" / "labels", tmp_path / "set" / "x.dcm"):
        assert "lies in the dataset folder" in failure(volume, mask, output)
    assert files(tmp_path / "set") == ["datalist.json"]


def test_wrong_arguments_are_one_line(tmp_path: Path, volume: Path, mask: Path) -> None:
    (tmp_path / "notes.txt").write_text("no")
    save(source(), tmp_path / "dicom" / "two.dcm")
    shutil.copy(mask, mask.with_name("two.nii.gz"))
    cases: list[tuple[tuple[Path, Path, Path], dict[str, Any], str]] = [
        ((tmp_path / "none", mask, tmp_path / "o"), {}, "--series"),
        ((tmp_path / "notes.txt", mask, tmp_path / "o"), {}, "not a DICOM file"),
        ((volume, tmp_path / "none", tmp_path / "o"), {}, "--mask"),
        ((volume, volume, tmp_path / "o"), {}, "is not a mask"),
        ((volume, volume.parent, tmp_path / "o"), {}, "holds no mask"),
        ((volume, mask, tmp_path / "notes.txt"), {}, "is a file"),
        ((volume.parent, mask.parent, tmp_path / "o.dcm"), {}, "is one file for 2 series"),
        ((volume, mask, tmp_path / "o"), {"algorithm": "magic"}, "--algorithm is 'magic'"),
        ((volume, mask, tmp_path / "o"), {"overwrite": "yes"}, "--overwrite is 'yes'"),
    ]
    for arguments, options, expected in cases:
        told = failure(*arguments, **options)
        assert expected in told
        assert "\n" not in told
    assert not (tmp_path / "o").exists()


def test_the_command_line(tmp_path: Path, volume: Path, mask: Path) -> None:
    command = [sys.executable, "data_prep/masks_to_dicom_seg.py", "--series", str(volume), "--mask", str(mask)]

    def call(*more: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PIG_DEBUG": "0", "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [*command, *more], cwd=ROOT, capture_output=True, text=True, env=environment, check=False, timeout=120
        )

    done = call("--output", str(tmp_path / "seg.dcm"))
    assert done.returncode == 0, done.stderr
    assert pydicom.dcmread(tmp_path / "seg.dcm").Modality == "SEG"
    wrong = call("--output", str(mask))
    assert wrong.returncode == 1
    assert wrong.stderr.splitlines()[-1].startswith("error: --output ")
    assert "Traceback" not in wrong.stderr
    told = call("--help")
    assert "PATIENT'S IDENTITY" in told.stdout + told.stderr
