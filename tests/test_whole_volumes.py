"""From a DICOM object of 60 frames to its DICOM segmentation, by the commands: NIfTI, masks, SEG."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 (the name its manual gives it)
import torch

from tests.conftest import ROOT, last_line, run_bundle
from tests.data.dbt_objects import build, build_slices, save
from tests.data.written_segs import by_hand

FRAMES, ROWS, COLUMNS = 60, 71, 80
CONVOLUTION = "{'_target_':'torch.nn.Conv2d','in_channels':1,'out_channels':2,'kernel_size':1}"


def prep(script: str, *options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"data_prep/{script}", *map(str, options)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def constructed() -> tuple[np.ndarray, np.ndarray]:
    """A breast that fills 64 x 64 pixels, with a marked lesion, and the lesion: (frames, rows, columns)."""
    frame, row, column = np.mgrid[:FRAMES, :ROWS, :COLUMNS]
    breast = (column / 64) ** 2 + ((row - 35.5) / 31.95) ** 2 < 1
    lesion = (abs(frame - 25) < 9) & (abs(row - 45) < 6 + frame % 3) & (abs(column - 18) < 7)
    return np.where(lesion, 3000, np.where(breast, 600, 0)).astype(np.uint16), lesion & breast


def write_object(folder: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """Write the object with its frames out of order; return its file, the frames' places, and the lesion."""
    values, lesion = constructed()
    places = np.random.default_rng(0).permutation(FRAMES)
    folder.mkdir(parents=True, exist_ok=True)
    path = save(build(values[places], order=places), folder / "study.dcm")
    return path, places, lesion


def test_the_mask_of_a_volume_comes_back_to_its_series_voxel_for_voxel(tmp_path):
    path, places, lesion = write_object(tmp_path / "dicom")
    assert (
        prep("dicom_to_nifti.py", "--series", tmp_path / "dicom", "--output", tmp_path / "volumes").returncode == 0
    )
    weights = {"weight": torch.tensor([0.0, 50.0])[:, None, None, None], "bias": torch.tensor([0.0, -25.0])}
    torch.save(weights, tmp_path / "net.pt")
    ids = {"ckpt": tmp_path / "net.pt", "network_def": CONVOLUTION, "device": "cpu", "image_size": 64}
    common = {"images": tmp_path / "volumes/*.nii.gz", "output_dir": tmp_path / "masks"}
    result = run_bundle("run", "configs/inference.yaml", **ids, **common)
    assert result.returncode == 0, result.stderr
    assert "8/8" in result.stderr  # 60 slices, eight at a time: progress is shown
    mask = np.asarray(nib.load(tmp_path / "masks/study_mask.nii.gz").dataobj)
    np.testing.assert_array_equal(mask.transpose(2, 1, 0), lesion)
    written = prep("masks_to_dicom_seg.py", "--series", tmp_path / "dicom", "--mask", tmp_path / "masks",
                   "--output", tmp_path / "segs")  # fmt: skip
    assert written.returncode == 0, written.stderr
    seg = pydicom.dcmread(tmp_path / "segs/study_seg.dcm")
    found = by_hand(seg)
    source = pydicom.dcmread(path)
    stored = {(source.SOPInstanceUID, number + 1): lesion[place] for number, place in enumerate(places)}
    assert found.keys() == {key for key, frame in stored.items() if frame.any()}
    for key, frame in found.items():
        np.testing.assert_array_equal(frame, stored[key])


def test_a_volume_as_nifti_is_what_itk_reads(tmp_path):
    """Frames in order here: ITK does not sort them. ITK's axes are (left, posterior, superior)."""
    values, _ = constructed()
    path = save(build(values), tmp_path / "v.dcm")
    assert prep("dicom_to_nifti.py", "--series", path, "--output", tmp_path / "v.nii.gz").returncode == 0
    ours, theirs = sitk.ReadImage(str(tmp_path / "v.nii.gz")), sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(theirs))
    for name in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(ours, name)(), getattr(theirs, name)(), atol=1e-5)


def test_series_of_slices_padding_and_what_is_there_already(tmp_path):
    values, _ = constructed()
    padded = values.copy()
    padded[:, :, 70:] = 7
    for number, ds in enumerate(build_slices(padded[:3], PixelPaddingValue=7)):
        (tmp_path / "in/series").mkdir(parents=True, exist_ok=True)
        save(ds, tmp_path / f"in/series/{2 - number}.dcm")
    (tmp_path / "in/note.txt").write_text("no DICOM")
    options = ("--series", tmp_path / "in", "--output", tmp_path / "out")
    result = prep("dicom_to_nifti.py", *options)
    assert result.returncode == 0, result.stderr
    assert "note.txt: not a DICOM file" in result.stderr
    assert result.stdout == f"1 written, in {tmp_path / 'out'}\n"
    (file,) = (tmp_path / "out").iterdir()
    np.testing.assert_array_equal(np.asarray(nib.load(file).dataobj).transpose(2, 1, 0), values[:3])
    before = file.stat().st_mtime_ns
    again = prep("dicom_to_nifti.py", *options)
    assert again.stdout == f"0 written, 1 there already, in {tmp_path / 'out'}\n"
    assert file.stat().st_mtime_ns == before
    assert prep("dicom_to_nifti.py", *options, "--overwrite", "true").returncode == 0
    assert file.stat().st_mtime_ns > before


@pytest.mark.parametrize("what", ["absent", "one file for several", "truncated"])
def test_what_cannot_be_written_is_one_line(tmp_path, what):
    path, _, _ = write_object(tmp_path / "in")
    output = tmp_path / "out"
    if what == "absent":
        path = tmp_path / "absent"
    elif what == "truncated":
        path.write_bytes(path.read_bytes()[:200_000])
    else:
        save(build(constructed()[0][:2]), tmp_path / "in/other.dcm")
        path, output = tmp_path / "in", tmp_path / "out.nii.gz"
    result = prep("dicom_to_nifti.py", "--series", path, "--output", output)
    assert result.returncode == 1
    expected = {
        "absent": "does not exist",
        "truncated": "incomplete",
        "one file for several": "is one file for 2 volumes",
    }
    assert last_line(result).startswith("error: ")
    assert expected[what] in result.stderr
    assert not output.exists() or not list(output.iterdir())
