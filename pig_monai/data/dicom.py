"""Digital breast tomosynthesis in DICOM: multi-frame Breast Tomosynthesis objects, one frame at a time."""

from __future__ import annotations

import logging
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import parse_fragments
from pydicom.errors import InvalidDicomError
from pydicom.pixels import get_decoder, pixel_array
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import (
    UID,
    BreastTomosynthesisImageStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from pig_monai.data.cases import VIEWS, parse_laterality
from pig_monai.data.volume import Grid, UnusableError, Volume

_HEADER_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "StudyID",
    "NumberOfFrames",
    "SeriesInstanceUID",
    "PatientID",
    "Manufacturer",
    "ViewPosition",
    "ViewCodeSequence",
    "ImageLaterality",
    "Laterality",
    "SharedFunctionalGroupsSequence",
]
_VIEW_CODES = {  # DICOM CID 4014: SNOMED CT, and the former SNOMED RT
    "399162004": "cc",
    "R-10242": "cc",
    "399368009": "mlo",
    "R-10226": "mlo",
    "399260004": "ml",
    "R-10224": "ml",
    "399352003": "lm",
    "R-10228": "lm",
    "399099002": "lmo",
    "R-10230": "lmo",
    "399192008": "xccl",
    "399101009": "xccm",
    "399196006": "fb",
    "399188001": "sio",
    "441555000": "iso",
}
SEGMENTATIONS = (SegmentationStorage, "1.2.840.10008.5.1.4.1.1.66.7")  # the second: Label Map Segmentation
_LARGEST_FRAME = 2**26  # pixels: a header that claims more is broken, and would fill the memory
_EXPORT_AGAIN = "export the volume again"


@dataclass(frozen=True)
class Header:
    """What tells one volume from another.

    Args:
        patient: the raw id; the study's UID where it is blank.
        instance: SOPInstanceUID.
        studies: the ids of its study: StudyInstanceUID and StudyID, as available.
        series: SeriesInstanceUID.
        frames: how many it claims.
        view: such as ``mlo``; None where the header does not say.
        laterality: ``"L"``, ``"R"`` or None.
        origin: ``"phantom"`` for the phantom's objects, else ``"real"``.
        unsupported: why this kind of object cannot be prepared, or None.
    """

    patient: str
    instance: str
    studies: tuple[str, ...]
    series: str
    frames: int
    view: str | None
    laterality: str | None
    origin: str
    unsupported: UnusableError | None


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Turn whatever goes wrong into an `UnusableError`: broken files raise errors of all kinds.

    The message goes into the log's detail only: it may quote the header.
    """
    chatter = logging.getLogger("pydicom")  # it prints the traceback of every decoder that it tried
    level = chatter.level
    chatter.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UnusableError:
        raise
    except InvalidDicomError as cause:
        raise UnusableError("not a DICOM file", "leave it out, or export it again as DICOM") from cause
    except Exception as cause:
        raise UnusableError(f"{what} ({type(cause).__name__})", _EXPORT_AGAIN, str(cause)) from cause
    finally:
        chatter.setLevel(level)


def read_header(path: Path) -> Header:
    """Read what identifies a volume.

    Raises:
        UnusableError: it is no DICOM file or cannot be read.
    """
    with _reading("the file cannot be read as DICOM"):
        ds = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_HEADER_TAGS)
        instance = str(ds.get("SOPInstanceUID", ""))
        patient = str(ds.get("PatientID", "") or "").strip()
        phantom = str(ds.get("Manufacturer", "") or "").startswith("pig-monai phantom")
        return Header(
            patient=patient or f"study {ds.get('StudyInstanceUID', instance)}",
            instance=instance,
            studies=tuple(str(ds[name].value) for name in ("StudyInstanceUID", "StudyID") if ds.get(name)),
            series=str(ds.get("SeriesInstanceUID", "")),
            frames=int(ds.get("NumberOfFrames", 1) or 1),
            view=_view(ds),
            laterality=_laterality(ds),
            origin="phantom" if phantom else "real",
            unsupported=_unsupported(str(ds.get("SOPClassUID", ""))),
        )


def _unsupported(sop_class: str) -> UnusableError | None:
    if sop_class == BreastTomosynthesisImageStorage:
        return None
    reason = "the object has no SOP class"
    if sop_class in SEGMENTATIONS:
        return UnusableError("a segmentation, not a volume", "put it into the folder that --masks names")
    if sop_class == SecondaryCaptureImageStorage:
        reason = "a secondary capture, which may hide the slices in private elements (Hologic SCO)"
    elif sop_class:
        name = UID(sop_class).name  # the UID itself where the standard does not know it: keep that out
        reason = f"the SOP class {'' if name == sop_class else name + ' '}is not supported"
    return UnusableError(reason, "ask the site for a Breast Tomosynthesis (BTO) export")


def _view(ds: Dataset) -> str | None:
    position = str(ds.get("ViewPosition", "") or "").strip().lower()
    if position in VIEWS:
        return position
    codes = ds.get("ViewCodeSequence") or []
    return _VIEW_CODES.get(str(codes[0].get("CodeValue", ""))) if codes else None


def _laterality(ds: Dataset) -> str | None:
    anatomy = _group(ds, "FrameAnatomySequence", 0)
    for text in (anatomy.get("FrameLaterality"), ds.get("ImageLaterality"), ds.get("Laterality")):
        side = parse_laterality(str(text or ""))
        if side:
            return side
    return None


def _group(ds: Dataset, name: str, frame: int) -> Dataset:
    """Return a functional group of a frame: its own, or the shared one, or an empty one."""
    own = ds.get("PerFrameFunctionalGroupsSequence") or []
    shared = ds.get("SharedFunctionalGroupsSequence") or []
    for groups in (own[frame] if frame < len(own) else None, shared[0] if shared else None):
        if groups is not None and groups.get(name):
            return groups[name].value[0]
    return Dataset()


def open_dicom(path: Path) -> Volume:
    """Open a Breast Tomosynthesis object.

    Frames are sorted by position. Their values are rescaled, and MONOCHROME1 is inverted, so that larger is
    brighter.

    Raises:
        UnusableError: the header is unusable, or pixel data is missing or incomplete.
    """
    with _reading("its header cannot be read"), path.open("rb") as file:
        ds = pydicom.dcmread(file, stop_before_pixels=True)
        frames = _check_frames(ds)
        _check_pixel_data(file, ds, frames, path.stat().st_size)
        order, affine, spacing = _geometry(ds, frames)
        columns, rows = int(ds.Columns), int(ds.Rows)
        return Volume(
            Grid((columns, rows, frames), affine, str(ds.get("FrameOfReferenceUID") or "") or None),
            spacing,
            frame=lambda index: _decode(path, ds, order[index]),
            window=lambda index: _window(ds, order[index]),
            stored=tuple(order),
        )


def _check_frames(ds: Dataset) -> int:
    for name in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "PixelRepresentation"):
        if ds.get(name) is None:
            raise UnusableError(f"its header lacks {name}", _EXPORT_AGAIN)
    frames = int(ds.get("NumberOfFrames", 1) or 1)
    described = len(ds.get("PerFrameFunctionalGroupsSequence") or [])
    if frames < 1 or not ds.Rows * ds.Columns:
        raise UnusableError("it claims no pixels", _EXPORT_AGAIN)
    if ds.Rows * ds.Columns > _LARGEST_FRAME:
        raise UnusableError(f"it claims frames of {ds.Columns} × {ds.Rows} pixels", _EXPORT_AGAIN)
    if described not in (0, frames):
        raise UnusableError(f"it claims {frames} frames and describes {described}", _EXPORT_AGAIN)
    if ds.SamplesPerPixel != 1 or not str(ds.PhotometricInterpretation).startswith("MONOCHROME"):
        raise UnusableError("its pixels are colours", "export it in greyscale")
    return frames


def _check_pixel_data(file: BinaryIO, ds: Dataset, frames: int, file_size: int) -> None:
    """Refuse pixel data that is absent or incomplete.

    Args:
        file: positioned at the pixel data element, as `pydicom.dcmread` leaves it.
        ds: the header.
        frames: how many it claims.
        file_size: bytes.
    """
    syntax = ds.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise UnusableError("its header lacks TransferSyntaxUID", _EXPORT_AGAIN)
    if syntax.is_private or syntax.is_deflated or not get_decoder(syntax).is_available:
        name = "a private one" if syntax.is_private else syntax.name
        raise UnusableError(f"its transfer syntax, {name}, cannot be decoded", "export it uncompressed")
    order = "<" if syntax.is_little_endian else ">"
    head = file.read(8)
    if len(head) < 8 or struct.unpack(f"{order}HH", head[:4]) != (0x7FE0, 0x0010):
        raise UnusableError("it holds no pixel data", _EXPORT_AGAIN)
    length = struct.unpack(f"{order}L", head[4:] if syntax.is_implicit_VR else file.read(4))[0]
    if syntax.is_compressed:
        count, offsets = parse_fragments(file)
        file.seek(offsets[-1] + 4)
        end = offsets[-1] + 8 + struct.unpack("<L", file.read(4))[0]
        present = count - 1 - (end > file_size)  # the first item is the table of offsets
    else:
        present = min(length, file_size - file.tell()) // (get_expected_length(ds) // frames)
    if present < frames:
        raise UnusableError(f"its pixel data is incomplete: {present} of {frames} frames", _EXPORT_AGAIN)


def _geometry(ds: Dataset, frames: int) -> tuple[list[int], np.ndarray | None, tuple[float, float] | None]:
    """Return the stored index of each frame in geometric order, the affine, and the (sx, sy) of a frame in mm.

    The affine is None where spacing, orientation or positions are missing or contradict each other; then frames
    keep their stored order.
    """
    stored = list(range(frames))
    measures = _group(ds, "PixelMeasuresSequence", 0)
    row_mm, column_mm = (float(v) for v in measures.get("PixelSpacing") or (0, 0))
    if not (row_mm > 0 and column_mm > 0):
        return stored, None, None
    spacing = (column_mm, row_mm)
    directions = _group(ds, "PlaneOrientationSequence", 0).get("ImageOrientationPatient")
    positions = [_group(ds, "PlanePositionSequence", i).get("ImagePositionPatient") for i in stored]
    if directions is None or any(position is None for position in positions):
        return stored, None, spacing
    along_row, down_column = np.array(directions, dtype=float).reshape(2, 3)
    normal = np.cross(along_row, down_column)
    corners = np.array(positions, dtype=float)
    heights = corners @ normal
    order = [int(i) for i in np.argsort(heights, kind="stable")]
    gaps = np.diff(heights[order])
    if frames > 1 and gaps.min() <= 1e-3 * gaps.max():  # two frames in one place
        return stored, None, spacing
    step = gaps.mean() if frames > 1 else float(measures.get("SliceThickness") or 1)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([along_row * column_mm, down_column * row_mm, normal * step], axis=1)
    affine[:3, 3] = corners[order[0]]
    # DICOM counts to the left and to the back, NIfTI to the right and to the front
    return order, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, spacing


def _decode(path: Path, ds: Dataset, stored: int) -> np.ndarray:
    """Decode one frame: float32 (columns, rows), larger is brighter."""
    with _reading(f"a frame cannot be decoded from {ds.file_meta.TransferSyntaxUID.name}"):
        pixels = pixel_array(path, index=stored)
        if pixels.shape != (ds.Rows, ds.Columns):
            raise ValueError(f"a frame of {pixels.shape} instead of {(ds.Rows, ds.Columns)}")
        slope, intercept = _rescale(ds, stored)
        values = pixels.T.astype(np.float32) * np.float32(slope) + np.float32(intercept)
        mirror = _mirror(ds, stored)
        return values if mirror is None else np.float32(mirror) - values


def _rescale(ds: Dataset, stored: int) -> tuple[float, float]:
    group = _group(ds, "PixelValueTransformationSequence", stored)
    slope, intercept = (group.get(name, ds.get(name)) for name in ("RescaleSlope", "RescaleIntercept"))
    return float(1 if slope is None else slope), float(0 if intercept is None else intercept)


def _mirror(ds: Dataset, stored: int) -> float | None:
    """Return m where brightness is m − value: MONOCHROME1, mirrored in the range that the stored bits hold."""
    if ds.PhotometricInterpretation != "MONOCHROME1":
        return None
    slope, intercept = _rescale(ds, stored)
    lowest_plus_highest = -1 if ds.PixelRepresentation == 1 else 2 ** int(ds.BitsStored) - 1
    return slope * lowest_plus_highest + 2 * intercept


def _window(ds: Dataset, stored: int) -> tuple[float, float] | None:
    """Return the (lowest, highest) value of a frame's first display window (PS3.3 C.11.2.1.2)."""
    with _reading("its display window cannot be read"):
        group = _group(ds, "FrameVOILUTSequence", stored)
        source = group if group.get("WindowCenter") is not None else ds
        centres, widths = (np.atleast_1d(source.get(name, [])) for name in ("WindowCenter", "WindowWidth"))
        if not len(centres) or not len(widths):
            return None
        centre, width = float(centres[0]), float(widths[0])
        kind = str(source.get("VOILUTFunction", "LINEAR") or "LINEAR")
        if kind == "LINEAR":
            centre, width = centre - 0.5, width - 1
        elif kind != "LINEAR_EXACT":
            raise UnusableError(f"its display window is {kind}, not linear", "use --intensity percentile")
        if width <= 0:
            raise UnusableError("its display window has no width", "use --intensity percentile")
        low, high = centre - width / 2, centre + width / 2
        mirror = _mirror(ds, stored)
        return (low, high) if mirror is None else (mirror - high, mirror - low)
