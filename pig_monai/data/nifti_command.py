"""The command that writes DICOM volumes as NIfTI, for whatever reads no multi-frame DICOM."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path, PurePosixPath

import nibabel as nib
import numpy as np
from tqdm import tqdm

from pig_monai.cli import as_bool
from pig_monai.data.dicom import VolumeFiles, open_volume
from pig_monai.data.find_series import find_series_volumes, own_name, series_folder
from pig_monai.data.outside import refuse_in_dataset
from pig_monai.data.volume import UnusableError, Volume
from pig_monai.errors import PigError
from pig_monai.files import atomic_path

SUFFIX = ".nii.gz"
_HEADER = 352
"""Bytes of a NIfTI-1 header with no extension."""


def dicom_to_nifti(*, series: str, output: str, overwrite: bool = False) -> None:
    """Write DICOM volumes as NIfTI (columns, rows, frames) on their own grid: nothing is turned or cropped.

    For the segmenter's inference.yaml, whose masks masks_to_dicom_seg.py takes back to the series. The files are
    named like their DICOM files, and hold no header but the geometry.

    Examples:
        python data_prep/dicom_to_nifti.py --series volume.dcm --output volume.nii.gz
        python data_prep/dicom_to_nifti.py --series DICOM --output VOLUMES

    Args:
        series: a DICOM file (Breast Tomosynthesis or mammogram), or a folder of such files and of slices.
        output: a file that ends in .nii.gz, or for any number of volumes a folder.
        overwrite: true writes files anew that are there; otherwise they are passed over.
    """
    source, target = Path(str(series)), Path(str(output))
    replace = as_bool(overwrite, "--overwrite")
    if not source.exists():
        raise PigError(f"--series {source} does not exist", "give a DICOM file, or a folder of them")
    refuse_in_dataset("--output", target, "the files are named like those of the archive")
    volumes, found = find_series_volumes(source)
    # of a refused stack there is a row for each of its names
    passed_over = [
        f"{row.source}: {row.why.reason}; {row.why.remedy}" for row in found.skipped if row.source.is_file()
    ]
    refused = []
    files = {_target(target, own_name(name, len(v.files) == 1), len(volumes)): v for name, v in volumes.items()}
    if len(files) < len(volumes):
        raise PigError(f"several volumes of {source} have one name", "convert them folder by folder")
    written = 0
    for file, volume in tqdm(files.items(), "volumes", unit="volume", disable=len(files) < 2):
        if file.exists() and not replace:
            continue
        try:
            write_volume(file, _open(source, volume))
            written += 1
        except UnusableError as why:
            refused.append(f"{series_folder(source) / volume.files[0]}: {why.reason}; {why.remedy}")
    for line in dict.fromkeys([*passed_over, *refused]):
        print(f"skipped {line}", file=sys.stderr)
    there = sum(file.exists() for file in files) - written
    print(f"{written} written{f', {there} there already' if there else ''}, in {target}")
    if refused:
        raise PigError(f"{len(refused)} of {len(files)} volumes could not be written", "the lines above say why")


def _open(source: Path, volume: VolumeFiles) -> Volume:
    return open_volume([series_folder(source) / file for file in volume.files])


def _target(target: Path, name: PurePosixPath, count: int) -> Path:
    if target.name.endswith(SUFFIX):
        if count > 1:
            raise PigError(f"--output {target} is one file for {count} volumes", "give a folder")
        return target
    if target.is_file():
        raise PigError(f"--output {target} is a file", f"give a folder, or a file that ends in {SUFFIX}")
    return target / name.with_name(f"{name.name}{SUFFIX}")


def write_volume(path: Path, volume: Volume) -> None:
    """Write a volume as float32 NIfTI, one frame after the other: its size does not matter.

    Args:
        path: ends in ``.nii.gz``.
        volume: what has no data in it (NaN) becomes the frame's darkest value.

    Raises:
        UnusableError: a frame cannot be decoded; nothing is written.
    """
    columns, rows, frames = volume.grid.size
    sx, sy = volume.spacing or (1.0, 1.0)
    affine = volume.grid.affine if volume.grid.affine is not None else np.diag([-sx, -sy, 1.0, 1.0])
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape((columns, rows, frames))
    header.set_xyzt_units("mm")
    header.set_sform(affine, code="scanner")
    header.set_qform(affine, code="scanner")
    header["vox_offset"] = _HEADER
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic_path(path) as scratch,
        open(scratch, "wb") as raw,
        # level 1: much faster than level 6 for a few per cent of the size; no name and no time in it
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=1, mtime=0) as stream,
    ):
        stream.write(header.binaryblock + b"\0" * 4)
        for index in tqdm(range(frames), path.name, unit="frame", leave=False, disable=frames < 2):
            frame = volume.frame(index)
            darkest = float(np.fmin.reduce(frame, axis=None, initial=np.inf))
            stream.write(np.nan_to_num(frame, nan=darkest if darkest < np.inf else 0.0).tobytes(order="F"))
