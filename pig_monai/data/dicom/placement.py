"""The grid of a DICOM volume, from its headers alone: no pixel is read for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from pig_monai.data.dicom.geometry import PLACE_TAGS, Spacing, find_spacing, group, place_frames
from pig_monai.data.volume import Grid, UnusableError

PLACEMENT_TAGS = [*PLACE_TAGS, "FrameOfReferenceUID"]
OF_SEVERAL_SIZES = "its slices are not of one size", "export the series again"


@dataclass(frozen=True)
class Placement:
    """Where the frames of a volume lie.

    Args:
        grid: its voxels; frames are in geometric order.
        order: the stored index of each frame; of one file per slice, that of its file.
        spacing: of a frame.
    """

    grid: Grid
    order: tuple[int, ...]
    spacing: Spacing


def place_object(ds: Dataset, frames: int) -> Placement:
    """Place the frames of one object: Breast Tomosynthesis, or a mammogram as a volume of one frame.

    Args:
        ds: its header, with `PLACEMENT_TAGS`.
        frames: how many it holds.

    Raises:
        UnusableError: they lie in one place, or unevenly.
    """
    positions = [group(ds, "PlanePositionSequence", i).get("ImagePositionPatient") for i in range(frames)]
    orientation = group(ds, "PlaneOrientationSequence", 0).get("ImageOrientationPatient")
    thickness = group(ds, "PixelMeasuresSequence", 0).get("SliceThickness")
    spacing = find_spacing(ds)
    return _placement(ds, spacing, *place_frames(positions, orientation, spacing.mm, thickness))


def place_slices(headers: Sequence[Dataset]) -> Placement:
    """Place slices of one file each.

    Args:
        headers: of the files, with `PLACEMENT_TAGS`.

    Raises:
        UnusableError: they differ in size, or lie in one place, or unevenly.
    """
    first = headers[0]
    if any((ds.Rows, ds.Columns) != (first.Rows, first.Columns) for ds in headers):
        raise UnusableError(*OF_SEVERAL_SIZES)
    positions = [ds.get("ImagePositionPatient") for ds in headers]
    orientation, thickness = first.get("ImageOrientationPatient"), first.get("SliceThickness")
    spacing = find_spacing(first)
    return _placement(first, spacing, *place_frames(positions, orientation, spacing.mm, thickness))


def _placement(ds: Dataset, spacing: Spacing, order: list[int], affine: np.ndarray | None) -> Placement:
    frame_of_reference = str(ds.get("FrameOfReferenceUID") or "") or None
    return Placement(
        Grid((int(ds.Columns), int(ds.Rows), len(order)), affine, frame_of_reference), tuple(order), spacing
    )
