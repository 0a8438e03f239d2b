"""Segmentations that the package writes for tests, and the ways to read them back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset

from pig_monai.data.dicom import open_volume
from pig_monai.data.masks import open_masks
from pig_monai.data.seg_source import read_source
from pig_monai.data.write_seg import build_segmentation, encode
from tests.data.dbt_objects import FRAMES, ORIGIN, SPACING, build_slices, pixels
from tests.data.segmentations import WHAT_SEG_COPIES, source

ORDER = [2, 0, 3, 1]  # where each stored frame lies
MADE = datetime(2024, 5, 17, 9, 30, 1)
ROWS, COLUMNS = 59, 37  # a frame is no whole number of bytes
PLACED = [1, 2, 3]  # where the mask is


def truth() -> np.ndarray:
    """A mask (frames by place, rows, columns) that is another one in each frame, flip and turn."""
    mask = np.zeros((FRAMES, ROWS, COLUMNS), np.uint8)
    mask[1:3, 20:30, 8:14] = 1
    mask[2, 40:44, 30:33] = 1
    mask[3, 5, 7] = mask[1, 58, 36] = 1
    return mask


def stored_pixels() -> np.ndarray:
    return np.ascontiguousarray(pixels()[:, :ROWS, :COLUMNS])


def write(paths: Sequence[Path], mask: Path, out: Path, algorithm: str = "automatic") -> Dataset:
    """Write the segmentation, and return what pydicom reads of it."""
    given = read_source(paths)
    seg = build_segmentation(given, open_masks([mask], given.grid, volumetric=True), algorithm, MADE)
    assert seg is not None
    out.write_bytes(encode(seg))
    return pydicom.dcmread(out)


def by_hand(ds: Dataset) -> dict[tuple[str, int], np.ndarray]:
    """(referenced SOPInstanceUID, frame number or 1) → mask (rows, columns): 8 pixels a byte, frames unpadded."""
    rows, columns = int(ds.Rows), int(ds.Columns)
    bits = np.unpackbits(np.frombuffer(ds.PixelData, np.uint8), bitorder="little")
    frames = {}
    for number, groups in enumerate(ds.PerFrameFunctionalGroupsSequence):
        (reference,) = groups.DerivationImageSequence[0].SourceImageSequence
        assert reference.SpatialLocationsPreserved == "YES"
        place = str(reference.ReferencedSOPInstanceUID), int(reference.get("ReferencedFrameNumber", 1))
        size = rows * columns
        frames[place] = bits[number * size : (number + 1) * size].reshape(rows, columns)
    return frames


def by_our_reader(paths: Sequence[Path], seg: Path) -> np.ndarray:
    volume = open_volume(paths)
    mask = open_masks([seg], volume.grid, volumetric=True)
    return np.stack([mask.mask(index).T for index in range(volume.grid.size[2])])


def oblique(degrees: float = 50) -> tuple[Dataset, np.ndarray]:
    """An MLO volume turned about the y axis, and its NIfTI affine by hand."""
    turn = np.deg2rad(degrees)
    along, down = np.array([np.cos(turn), 0, np.sin(turn)]), np.array([0.0, 1.0, 0.0])
    normal = np.cross(along, down)
    ds = source(stored_pixels(), order=ORDER)
    ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient = [
        *(round(float(v), 8) for v in along),
        *down.tolist(),
    ]
    corners = [np.array(ORIGIN) + place * SPACING[2] * normal for place in range(FRAMES)]
    for groups, place in zip(ds.PerFrameFunctionalGroupsSequence, ORDER, strict=True):
        groups.PlanePositionSequence[0].ImagePositionPatient = [round(float(v), 8) for v in corners[place]]
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([along * SPACING[0], down * SPACING[1], normal * SPACING[2]], axis=1)
    matrix[:3, 3] = ORIGIN
    return ds, np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix


def mammogram() -> Dataset:
    (ds,) = build_slices(
        stored_pixels()[:1],
        sop_class=uid.DigitalMammographyXRayImageStorageForPresentation,
        **(WHAT_SEG_COPIES | {"ImagerPixelSpacing": [0.1, 0.1]}),
    )
    for name in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "FrameOfReferenceUID"):
        del ds[name]
    return ds
