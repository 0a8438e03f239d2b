"""What a source of slices looks like to preparation, whatever kind of file it comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

GRID_REMEDY = "save the mask on the grid of what it belongs to: nothing is resampled silently"


class UnusableError(Exception):
    """One volume, image or mask that cannot be used. The run goes on; a row of the report says why.

    Args:
        reason: what is wrong, without a path and without anything that identifies a person.
        remedy: what to do about it.
        detail: for the log only: the underlying message, which may quote the header.
    """

    def __init__(self, reason: str, remedy: str, detail: str = "") -> None:
        super().__init__(reason, remedy, detail)
        self.reason = reason
        self.remedy = remedy
        self.detail = detail


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a volume or of a mask lie.

    Args:
        size: (columns, rows, frames); a mask's own may have any number of axes.
        affine: 4 × 4, from (column, row, frame) indices to mm in NIfTI's axes (right, anterior, superior); None
            where the file does not say.
        frame_of_reference: a UID, or None where the file does not say: compared, never shown.
    """

    size: tuple[int, ...]
    affine: np.ndarray | None = None
    frame_of_reference: str | None = None

    def __str__(self) -> str:
        text = " × ".join(map(str, self.size)) + " voxels"
        if self.affine is None:
            return text + " without geometry"
        edges = " × ".join(f"{v:.4g}" for v in np.linalg.norm(self.affine[:3, :3], axis=0))
        corner = ", ".join(f"{v:.4g}" for v in self.affine[:3, 3])
        return f"{text} of {edges} mm from ({corner})"


@dataclass(frozen=True)
class DisplayCurve:
    """A display window that is not linear.

    Args:
        brightness: from values, in the unit of a frame, to 0 … 1; NaN to NaN.
    """

    brightness: Callable[[np.ndarray], np.ndarray]

    def mirrored(self, mirror: float) -> DisplayCurve:
        """Return the curve of values that were mirrored (v → ``mirror`` − v) because small ones are bright."""
        return DisplayCurve(lambda values: 1 - self.brightness(np.float32(mirror) - values))


Window = tuple[float, float] | DisplayCurve
"""How a frame is displayed: the (lowest, highest) value of a linear window, or a curve."""


@dataclass(frozen=True)
class Volume:
    """A stack of slices whose frames are decoded one at a time.

    Args:
        grid: its voxels; frames are in geometric order.
        spacing: (sx, sy) of a frame in mm; None where unknown.
        frame: decodes frame i: float32 (columns, rows), index 0 the column; larger is brighter; NaN where the
            source says that there is no data (pixel padding). Raises `UnusableError`.
        window: frame i's display window, in the unit of ``frame``; None where the file has none.
        stored: where each frame lies in the file (of one file per slice: in the order of Instance Number), counted
            from 0; None where that is the geometric order.
        remarks: what the report should say about how the volume was read; nothing that identifies a person.
        window_remarks: likewise, where the windows are used. Raises `UnusableError`.
        directions: where rows and columns run to: DICOM's Patient Orientation, such as ("A", "F"); or empty.
    """

    grid: Grid
    spacing: tuple[float, float] | None
    frame: Callable[[int], np.ndarray]
    window: Callable[[int], Window | None] = lambda index: None
    stored: tuple[int, ...] | None = None
    remarks: tuple[str, ...] = ()
    window_remarks: Callable[[], tuple[str, ...]] = tuple
    directions: tuple[str, ...] = ()

    def frame_stored_at(self, place: int) -> int:
        """Return which frame lies at ``place`` in the file: what counts slices by file order needs it."""
        return place if self.stored is None else self.stored.index(place)


class MaskSource(Protocol):
    """Masks on the grid of a volume, one slice at a time."""

    def mask(self, index: int) -> np.ndarray:
        """Return the mask of frame ``index``: bool (columns, rows)."""
