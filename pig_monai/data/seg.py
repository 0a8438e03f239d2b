"""DICOM segmentations (SEG): which series they reference, and their voxels on a volume's grid."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import nibabel as nib
import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders import RLELosslessDecoder
from pydicom.uid import RLELossless

from pig_monai.data.dicom.files import open_file, read_tags, reading
from pig_monai.data.dicom.geometry import group
from pig_monai.data.dicom.headers import SEGMENTATIONS
from pig_monai.data.volume import GRID_REMEDY, Grid, UnusableError

if TYPE_CHECKING:  # slow to import, and only who has segmentations needs it
    from highdicom.seg import Segmentation

_IN_PLANE = 0.5  # voxels that a frame's corner may lie off, as for other masks
_BETWEEN_PLANES = 0.25  # stricter: a frame half-way between two slices would be a resampling
_UNREADABLE = "the mask cannot be read as a DICOM segmentation"


@dataclass(frozen=True)
class References:
    """What a segmentation says that it was drawn on.

    Args:
        series: SeriesInstanceUIDs.
        instances: SOPInstanceUIDs; may be empty.
    """

    series: frozenset[str]
    instances: frozenset[str]


def is_segmentation(path: Path) -> bool:
    """Whether a file is a DICOM segmentation: BINARY, FRACTIONAL or LABELMAP."""
    try:
        with reading(_UNREADABLE), open_file(path) as file:
            ds = read_tags(file, ["SOPClassUID"])
            return str(ds.get("SOPClassUID", "")) in SEGMENTATIONS
    except UnusableError:
        return False


def read_references(path: Path) -> References:
    """Read what a segmentation references.

    Raises:
        UnusableError: it cannot be read, or names no series.
    """
    with reading(_UNREADABLE), open_file(path) as file:
        ds = read_tags(file, ["ReferencedSeriesSequence"])
        items = ds.get("ReferencedSeriesSequence") or []
        series = {str(item.get("SeriesInstanceUID") or "") for item in items} - {""}
        if not series:
            raise UnusableError(
                "the segmentation references no series", "save the mask as NIfTI, named like its file"
            )
        instances = {
            str(one.get("ReferencedSOPInstanceUID") or "")
            for item in items
            for one in item.get("ReferencedInstanceSequence") or []
        }
        return References(frozenset(series), frozenset(instances - {""}))


class SegmentationMask:
    """A DICOM segmentation on a volume's grid; its segments are merged, frames that it lacks are empty.

    FRACTIONAL ones count from half of their maximum on, exclusive. Frames are placed by their plane positions;
    flipped and permuted axes are put right.

    Args:
        path: the file.
        grid: the volume's.

    Raises:
        UnusableError: it cannot be read, or it lies on another grid or in another frame of reference.
    """

    def __init__(self, path: Path, grid: Grid) -> None:
        self.shape = grid.size[:2]
        with reading(_UNREADABLE), open_file(path) as file:
            seg = _opened(file)
            places = _places(seg, grid)  # before any frame is decoded
            self.voxels = self._read_voxels(seg, places)

    def _read_voxels(self, seg: Segmentation, places: list[np.ndarray]) -> dict[int, np.ndarray]:
        """Return slice → its flat indices: lesions are small, the volume is not."""
        found: dict[int, list[np.ndarray]] = defaultdict(list)
        for number, place in enumerate(places):
            row, column = np.nonzero(_foreground(seg, number))
            x, y, z = np.rint(place[:3, :2] @ [column, row] + place[:3, 3:]).astype(np.int64)
            for index in np.unique(z):
                found[int(index)].append((x * self.shape[1] + y)[z == index].astype(np.uint32))
        return {index: np.concatenate(parts) for index, parts in found.items()}

    def mask(self, index: int) -> np.ndarray:
        """Return the mask of frame ``index``: bool (columns, rows)."""
        pixels = np.zeros(self.shape, bool)
        pixels.flat[self.voxels.get(index, np.empty(0, np.uint32))] = True
        return pixels


def _opened(file: BinaryIO) -> Segmentation:
    """Open a segmentation whose frames are read one at a time.

    Where single bits fill no whole number of bytes, frames begin within a byte, and highdicom 0.28 reads too few
    bytes of some of them from the file: such a file, which is small, is read whole.
    """
    from highdicom.seg import segread

    seg = segread(file, lazy_frame_retrieval=True)
    compressed = seg.file_meta.TransferSyntaxUID.is_encapsulated
    if compressed or seg.BitsAllocated != 1 or int(seg.Rows) * int(seg.Columns) % 8 == 0:
        return seg
    file.seek(0)
    return segread(file)


def _places(seg: Segmentation, grid: Grid) -> list[np.ndarray]:
    """Return for each frame the 4 × 4 of whole numbers that takes (column, row, 0) to a voxel of the volume."""
    if grid.affine is None:
        if _on_whole_image(seg, grid):
            return [np.eye(4)] * seg.number_of_frames
        raise UnusableError(
            "the volume has no geometry, so a DICOM segmentation cannot be placed on it",
            "save the mask as NIfTI, NRRD or pictures of its slices",
        )
    frames = [_frame_affine(seg, number) for number in range(seg.number_of_frames)]
    planes = len(np.unique(np.round([affine[:3, 3] for affine in frames], 3), axis=0))
    own = Grid((int(seg.Columns), int(seg.Rows), planes), frames[0])
    frame_of_reference = str(seg.get("FrameOfReferenceUID") or "") or None
    if frame_of_reference and grid.frame_of_reference and frame_of_reference != grid.frame_of_reference:
        raise UnusableError(
            f"the mask ({own}) lies in another frame of reference than the volume ({grid})", GRID_REMEDY
        )
    places = []
    for affine in frames:
        place = _whole_numbers(np.linalg.inv(grid.affine) @ affine, own.size[:2], grid.size)
        if place is None:
            raise UnusableError(f"the mask's grid is {own}, the volume's {grid}", GRID_REMEDY)
        places.append(place)
    return places


def _on_whole_image(seg: Segmentation, grid: Grid) -> bool:
    """Whether a segmentation without positions covers the one frame of what it references, as for a mammogram."""
    if grid.size != (int(seg.Columns), int(seg.Rows), 1):
        return False
    for number in range(seg.number_of_frames):
        sources = group(seg, "DerivationImageSequence", number).get("SourceImageSequence") or [Dataset()]
        moved = any(source.get("SpatialLocationsPreserved", "YES") != "YES" for source in sources)
        if moved or group(seg, "PlanePositionSequence", number):
            return False
    return True


def _frame_affine(seg: Segmentation, number: int) -> np.ndarray:
    """Return the 4 × 4 from a frame's (column, row, 0) to mm in NIfTI's axes; the third axis has length 1."""
    corner = group(seg, "PlanePositionSequence", number).get("ImagePositionPatient")
    directions = group(seg, "PlaneOrientationSequence", number).get("ImageOrientationPatient")
    spacing = group(seg, "PixelMeasuresSequence", number).get("PixelSpacing")
    if corner is None or directions is None or spacing is None:
        raise UnusableError("the segmentation does not say where its frames lie", "save the mask as NIfTI")
    along_row, down_column = np.array(directions, dtype=float).reshape(2, 3)
    affine = np.eye(4)
    affine[:3, :3] = np.stack(
        [along_row * float(spacing[1]), down_column * float(spacing[0]), np.cross(along_row, down_column)], axis=1
    )
    affine[:3, 3] = np.array(corner, dtype=float)
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _whole_numbers(
    transform: np.ndarray, size: tuple[int, ...], volume_size: tuple[int, ...]
) -> np.ndarray | None:
    """Return the signed permutation that ``transform`` is, within the tolerances; None where it is none.

    Args:
        transform: from a frame's (column, row, 0) to the volume's voxels.
        size: (columns, rows) of the frame.
        volume_size: (columns, rows, frames).
    """
    axes = nib.io_orientation(transform)
    if np.isnan(axes).any():
        return None
    place = np.zeros((4, 4))
    place[3, 3] = 1
    for own, (axis, sign) in enumerate(axes[:2].astype(int)):
        if size[own] != volume_size[axis]:
            return None
        place[axis, own] = sign
        place[axis, 3] = 0 if sign > 0 else volume_size[axis] - 1
    through = int(axes[2, 0])
    corners = np.array([[x, y, 0, 1] for x in (0, size[0] - 1) for y in (0, size[1] - 1)]).T
    plane = round(float((transform @ corners)[through].mean()))
    place[through, 3] = plane
    off = np.abs(transform @ corners - place @ corners)[:3].max(axis=1)
    off[through] *= _IN_PLANE / _BETWEEN_PLANES
    return place if 0 <= plane < volume_size[through] and off.max() <= _IN_PLANE else None


def _foreground(seg: Segmentation, number: int) -> np.ndarray:
    """Return one frame: bool (rows, columns)."""
    stored = _stored_frame(seg, number)
    kind = seg.segmentation_type.value
    if kind == "FRACTIONAL":
        return np.asarray(stored > seg.MaximumFractionalValue / 2)
    if kind == "LABELMAP":
        return np.asarray(stored != seg.get("PixelPaddingValue", 0))  # the background's label
    return np.asarray(stored > 0)


def _stored_frame(seg: Segmentation, number: int) -> np.ndarray:
    if seg.BitsAllocated != 1 or seg.file_meta.TransferSyntaxUID != RLELossless:
        return seg.get_stored_frame(number, as_index=True)
    # No decoder takes 1-bit RLE, yet there are writers of it: some pack eight pixels into a byte, some do not.
    raw = seg.get_raw_frame(number, as_index=True)
    rows, columns = int(seg.Rows), int(seg.Columns)
    try:
        return _decode_bytes(raw, rows, columns)
    except RuntimeError:  # too few bytes
        packed = _decode_bytes(raw, 1, -(-rows * columns // 8))
        return np.unpackbits(packed[0], bitorder="little")[: rows * columns].reshape(rows, columns)


def _decode_bytes(raw: bytes, rows: int, columns: int) -> np.ndarray:
    described: dict[str, Any] = {
        "rows": rows,
        "columns": columns,
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "bits_allocated": 8,
        "bits_stored": 8,
        "pixel_representation": 0,
        "photometric_interpretation": "MONOCHROME2",
        "pixel_keyword": "PixelData",
    }
    # of the plugins that may be installed, pydicom's own is known to refuse too few bytes
    frames = encapsulate([raw], has_bot=False)
    return RLELosslessDecoder.as_array(frames, decoding_plugin="pydicom", **described)[0]
