"""Small tomosynthesis objects and masks for tests, built without the package under test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

ROWS, COLUMNS, FRAMES = 60, 40, 4
SPACING = (0.5, 0.25, 1.5)  # between columns, rows and frames, mm
ORIGIN = (10.0, -20.0, 30.0)
IDENTITIES = ("Roe^Jane", "MRN-4711", "St. Elsewhere", "19610203", "Dr^Who", "1.2.826.0.1.3680043.8.498.")


def pixels(frames: int = FRAMES, rows: int = ROWS, columns: int = COLUMNS) -> np.ndarray:
    """A breast with its chest wall left: a half disc of a different ramp in every frame; 0 outside."""
    frame, row, column = np.mgrid[:frames, :rows, :columns]
    inside = (column / (0.8 * columns)) ** 2 + ((row - rows / 2) / (0.45 * rows)) ** 2 < 1
    return np.where(inside, 500 + 100 * frame + 7 * row + 3 * column, 0).astype(np.uint16)


def lesion(frames: Sequence[int], shape: tuple[int, int, int] = (FRAMES, ROWS, COLUMNS)) -> np.ndarray:
    """A mask (frames, rows, columns) with a rectangle of 6 × 10 pixels in the given frames."""
    mask = np.zeros(shape, np.uint8)
    mask[list(frames), 20:30, 8:14] = 1
    return mask


def build(
    stored: np.ndarray, *, order: Sequence[int] | None = None, laterality: str = "L", **attributes: Any
) -> Dataset:
    """Build an object whose stored frame i lies at place ``order[i]`` of the stack; ``attributes`` override."""
    frames, rows, columns = stored.shape
    order = range(frames) if order is None else order
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.SOPClassUID = uid.BreastTomosynthesisImageStorage
    for name in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(ds, name, uid.generate_uid("1.2.826.0.1.3680043.8.498."))
    ds.PatientName, ds.PatientID, ds.InstitutionName, ds.PatientBirthDate, ds.ReferringPhysicianName = IDENTITIES[
        :5
    ]
    ds.Manufacturer = "Maker"
    ds.ViewPosition = "MLO"
    ds.Rows, ds.Columns, ds.NumberOfFrames, ds.SamplesPerPixel = rows, columns, frames, 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    shared = Dataset()
    shared.PixelMeasuresSequence = [item(PixelSpacing=[SPACING[1], SPACING[0]], SliceThickness=SPACING[2])]
    shared.PlaneOrientationSequence = [item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]
    shared.FrameAnatomySequence = [item(FrameLaterality=laterality)]
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = [
        item(PlanePositionSequence=[item(ImagePositionPatient=[*ORIGIN[:2], ORIGIN[2] + place * SPACING[2]])])
        for place in order
    ]
    ds.PixelData = stored.tobytes()
    ds["PixelData"].VR = "OW"
    for name, value in attributes.items():
        setattr(ds, name, value)
    return ds


def build_slices(
    stored: np.ndarray, *, sop_class: str = uid.CTImageStorage, series: str | None = None, **attributes: Any
) -> list[Dataset]:
    """Build one single-frame object per frame of ``stored``, frame i at place i; ``attributes`` override."""
    whole = build(stored)
    series = series or uid.generate_uid("1.2.826.0.1.3680043.8.498.")
    slices = []
    for place, frame in enumerate(stored):
        ds = build(frame[None])
        del ds.NumberOfFrames, ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPClassUID = whole.StudyInstanceUID, series, sop_class
        ds.ImageLaterality = "L"
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.ImagePositionPatient = [*ORIGIN[:2], ORIGIN[2] + place * SPACING[2]]
        ds.PixelSpacing, ds.SliceThickness = [SPACING[1], SPACING[0]], SPACING[2]
        for name, value in attributes.items():
            setattr(ds, name, value)
        slices.append(ds)
    return slices


def item(**attributes: Any) -> Dataset:
    ds = Dataset()
    for name, value in attributes.items():
        setattr(ds, name, value)
    return ds


def save(ds: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def affine() -> np.ndarray:
    """The NIfTI affine of what `build` describes, by hand: LPS to RAS negates x and y."""
    sx, sy, sz = SPACING
    ox, oy, oz = ORIGIN
    return np.array([[-sx, 0, 0, -ox], [0, -sy, 0, -oy], [0, 0, sz, oz], [0, 0, 0, 1]])


def save_mask(mask: np.ndarray, path: Path, matrix: np.ndarray | None = None) -> Path:
    """Save a mask (frames, rows, columns) as NIfTI (columns, rows, frames)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(mask.transpose(2, 1, 0), affine() if matrix is None else matrix), path)
    return path
