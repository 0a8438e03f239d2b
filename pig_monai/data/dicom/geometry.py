"""Where the frames of a DICOM volume lie: spacing, order, affine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from pig_monai.data.volume import UnusableError

PLACE_TAGS = [
    "Rows",
    "Columns",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "EstimatedRadiographicMagnificationFactor",
    "SliceThickness",
    "PatientOrientation",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]
_UNEVEN = 0.1  # of the median gap: what rounded decimals explain, and a missing slice does not
_ONE_PLACE = 1e-3  # of the largest gap
_LARGEST_SPACING = 100.0  # mm: more is a broken number


@dataclass(frozen=True)
class Plane:
    """Where a slice of one file lies.

    Args:
        grid: rows, columns, orientation and spacing: slices of one volume have the same.
        position: of the first pixel's centre, mm in DICOM's axes.
        height: of the position along the normal of the slice, mm.
    """

    grid: tuple[float, ...]
    position: tuple[float, float, float]
    height: float


@dataclass(frozen=True)
class Spacing:
    """The (sx, sy) of a frame in mm, or None where unknown, and how it was found where not in the usual way."""

    mm: tuple[float, float] | None
    remark: str | None = None


def group(ds: Dataset, name: str, frame: int) -> Dataset:
    """Return a functional group of a frame: its own, or the shared one, or an empty one."""
    own = ds.get("PerFrameFunctionalGroupsSequence") or []
    shared = ds.get("SharedFunctionalGroupsSequence") or []
    for groups in (own[frame] if frame < len(own) else None, shared[0] if shared else None):
        if groups is not None and groups.get(name):
            return groups[name].value[0]
    return Dataset()


def read_directions(ds: Dataset) -> tuple[str, ...]:
    """Return Patient Orientation: where rows and columns run to, such as ("P", "F"); empty without it."""
    for source in (group(ds, "PatientOrientationInFrameSequence", 0), ds):
        value = source.get("PatientOrientation")
        if value and not isinstance(value, str | bytes) and len(value) == 2:
            return tuple(str(one).strip().upper() for one in value)
    return ()


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """Return ``count`` finite numbers, or None."""
    if value is None or isinstance(value, str | bytes) or not hasattr(value, "__len__") or len(value) != count:
        return None
    numbers = tuple(float(v) for v in value)
    return numbers if all(map(math.isfinite, numbers)) else None


def find_spacing(ds: Dataset) -> Spacing:
    """Find the spacing of a frame.

    Pixel Spacing of the functional groups comes first, then that of the top level. Zeros, which some exports
    write, count as absent; then Imager Pixel Spacing, which is measured at the detector, is divided by the
    magnification where the header gives one.
    """
    for source in (group(ds, "PixelMeasuresSequence", 0), ds):
        mm = _spacing(source.get("PixelSpacing"))
        if mm is not None:
            return Spacing(mm)
    mm = _spacing(ds.get("ImagerPixelSpacing"))
    if mm is None:
        return Spacing(None)
    factor = _numbers([ds.get("EstimatedRadiographicMagnificationFactor") or 0], 1)
    if factor is None or not 1 <= factor[0] < 10:
        return Spacing(mm, "the spacing is Imager Pixel Spacing, that at the detector: no magnification is given")
    remark = "the spacing is Imager Pixel Spacing divided by the magnification factor"
    return Spacing((mm[0] / factor[0], mm[1] / factor[0]), remark)


def _spacing(value: Any) -> tuple[float, float] | None:
    """Turn DICOM's (between rows, between columns) into (sx, sy)."""
    between = _numbers(value, 2)
    if between is None or not all(0 < v < _LARGEST_SPACING for v in between):
        return None
    return between[1], between[0]


def _axes(directions: Any) -> np.ndarray | None:
    """Return Image Orientation as (2, 3): along a row, down a column; None where it is no pair of axes."""
    numbers = _numbers(directions, 6)
    if numbers is None:
        return None
    axes = np.reshape(numbers, (2, 3))
    return axes if np.abs(axes @ axes.T - np.eye(2)).max() < 0.01 else None


def read_plane(ds: Dataset) -> Plane | None:
    """Return where a single-frame object lies, or None where it does not say or has several frames."""
    axes = _axes(ds.get("ImageOrientationPatient"))
    position = _numbers(ds.get("ImagePositionPatient"), 3)
    if axes is None or position is None or int(ds.get("NumberOfFrames", 1) or 1) != 1:
        return None
    spacing = find_spacing(ds).mm or (0.0, 0.0)
    exact = (*axes.ravel(), *spacing)
    grid = (float(ds.get("Rows") or 0), float(ds.get("Columns") or 0), *(round(float(v), 3) + 0.0 for v in exact))
    x, y, z = position
    return Plane(grid, (x, y, z), float(np.cross(*axes) @ np.array(position)))


def place_frames(
    positions: Sequence[Any], directions: Any, spacing: tuple[float, float] | None, thickness: Any
) -> tuple[list[int], np.ndarray | None]:
    """Sort frames by their place.

    Args:
        positions: Image Position (Patient) of each stored frame.
        directions: Image Orientation (Patient).
        spacing: (sx, sy) in mm.
        thickness: Slice Thickness, the extent of a volume of one frame.

    Returns:
        the stored index of each frame in geometric order, and the affine of `Grid`. Without positions or
        orientation the stored order stays; without these or the spacing the affine is None.

    Raises:
        UnusableError: frames lie in one place, or unevenly.
    """
    stored = list(range(len(positions)))
    axes = _axes(directions)
    corners = [_numbers(position, 3) for position in positions]
    if axes is None or not all(corner is not None for corner in corners):
        return stored, None
    places = np.array(corners, dtype=float)
    heights = places @ np.cross(*axes)
    if len(stored) > 1 and np.ptp(heights) == 0:  # a header that repeats one position says nothing
        return stored, None
    order = [int(i) for i in np.argsort(heights, kind="stable")]
    check_gaps(np.diff(heights[order]))
    if spacing is None:
        return order, None
    # from corner to corner, since a stack may lean
    if len(stored) > 1:
        step = (places[order[-1]] - places[order[0]]) / (len(stored) - 1)
    else:
        extent = _numbers([thickness or 1], 1)
        step = np.cross(*axes) * (extent[0] if extent and extent[0] > 0 else 1.0)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([axes[0] * spacing[0], axes[1] * spacing[1], step], axis=1)
    affine[:3, 3] = places[order[0]]
    # DICOM counts to the left and to the back, NIfTI to the right and to the front
    return order, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def check_gaps(gaps: np.ndarray) -> None:
    """Refuse frames that lie in one place or unevenly.

    Args:
        gaps: between neighbours, mm, none negative.

    Raises:
        UnusableError: says what is wrong.
    """
    if len(gaps) == 0:
        return
    if gaps.min() <= _ONE_PLACE * gaps.max():
        twice = int((gaps <= _ONE_PLACE * gaps.max()).sum())
        raise UnusableError(f"{twice} of its frames lie where another one lies", "export it with each frame once")
    if np.abs(gaps - np.median(gaps)).max() > _UNEVEN * np.median(gaps):
        reason = f"its frames lie unevenly, {gaps.min():.3g} to {gaps.max():.3g} mm apart: some may be missing"
        raise UnusableError(reason, "export all of its frames")
