"""Writing DICOM segmentations (SEG) that open beside the series they were made for."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType

import highdicom as hd
import numpy as np
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.valuerep import DT

from pig_monai import __version__
from pig_monai.data.dicom.files import reading
from pig_monai.data.seg_source import SegSource
from pig_monai.data.volume import MaskSource

ALGORITHMS: Mapping[str, SegmentAlgorithmTypeValues] = MappingProxyType(
    {kind.value.lower(): kind for kind in SegmentAlgorithmTypeValues}
)
"""Who drew a mask: ``automatic`` a network, ``semiautomatic`` a network and a person, ``manual`` a person."""

_NAME = "pig-monai"
_AFTER_SOURCE = 1000  # added to the source's series number: the segmentation is listed after all images
_LARGEST_NUMBER = 2**31 - 1  # of DICOM's integer strings
_RED = hd.color.CIELabColor(53.2, 80.1, 67.2)


def build_segmentation(
    source: SegSource, masks: MaskSource, algorithm: str, made: datetime
) -> Segmentation | None:
    """Build the segmentation of a mask: BINARY, one segment, only the frames with a mask.

    Its UIDs follow from the series, the mask and the other arguments but ``made``: the same mask is the same
    object to an archive, however often it is written.

    Args:
        source: the series.
        masks: on its grid, frames in geometric order.
        algorithm: one of `ALGORITHMS`.
        made: when the mask was made, in local time: the date of the content.

    Returns:
        the segmentation; None where the mask is empty, since DICOM knows no segmentation without frames.

    Raises:
        UnusableError: the mask cannot be read, or the source's header holds what no DICOM object may.
    """
    kept = {}
    for frame in range(source.grid.size[2]):
        pixels = masks.mask(frame).T  # (rows, columns)
        if pixels.any():
            kept[frame] = pixels.astype(np.uint8)
    if not kept:
        return None
    uids = _Uids(source, kept, algorithm)
    with reading("the headers of its series cannot be made a segmentation of"):
        seg = _highdicom(source, kept, algorithm, made, uids)
        _amend(seg, source, list(kept), made, uids)
        return seg


def encode(seg: Segmentation) -> bytes:
    """Return a segmentation as the bytes of a DICOM file.

    Raises:
        UnusableError: a value of the series' header cannot be written.
    """
    with reading("the headers of its series cannot be made a segmentation of"):
        stream = io.BytesIO()
        seg.save_as(stream, enforce_file_format=True)
        return stream.getvalue()


class _Uids:
    """UIDs of what a segmentation consists of, under the root that needs no registration (PS3.5 B.2)."""

    def __init__(self, source: SegSource, kept: Mapping[int, np.ndarray], algorithm: str) -> None:
        of = [str(source.headers[0].SeriesInstanceUID), *(str(ds.SOPInstanceUID) for ds in source.headers)]
        self.hash = hashlib.sha256(json.dumps([__version__, hd.__version__, algorithm, of]).encode())
        for frame, pixels in kept.items():
            self.hash.update(str(frame).encode() + np.packbits(pixels).tobytes())

    def make(self, part: str) -> str:
        """Return the UID of a part, which ``part`` names."""
        one = self.hash.copy()
        one.update(part.encode())
        return f"2.25.{int.from_bytes(one.digest()[:16], 'big')}"


def _highdicom(
    source: SegSource, kept: Mapping[int, np.ndarray], algorithm: str, made: datetime, uids: _Uids
) -> Segmentation:
    positions = [
        hd.PlanePositionSequence(hd.CoordinateSystemNames.PATIENT, source.position(frame))
        for frame in kept
        if source.placed
    ]
    return Segmentation(
        source_images=source.headers,
        pixel_array=np.stack(list(kept.values())),
        plane_positions=positions if source.placed else None,
        segmentation_type=SegmentationTypeValues.BINARY,  # what the masks are, and what viewers take
        segment_descriptions=[_describe(ALGORITHMS[algorithm])],
        series_instance_uid=uids.make("series"),
        series_number=_series_number(source.headers[0]),
        sop_instance_uid=uids.make("instance"),
        instance_number=1,
        series_description="Mass segmentation",
        manufacturer=_NAME,
        manufacturer_model_name=_NAME,
        software_versions=__version__,  # highdicom adds itself as contributing equipment
        device_serial_number="0",
        content_label="MASS",
        content_description="Masses",
        content_date=made.date(),
        content_time=made.time(),
        specific_character_set=None,  # highdicom refuses some that the standard allows: see `_amend`
        series_date=made.date(),
        series_time=made.time(),
    )


def _describe(algorithm: SegmentAlgorithmTypeValues) -> SegmentDescription:
    by_hand = algorithm == SegmentAlgorithmTypeValues.MANUAL
    identification = hd.AlgorithmIdentificationSequence(
        f"{_NAME} mass segmentation", codes.cid7162.ArtificialIntelligence, __version__, source=_NAME
    )
    return SegmentDescription(
        segment_number=1,
        segment_label="Mass",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Mass,
        algorithm_type=algorithm,
        algorithm_identification=None if by_hand else identification,
        anatomic_regions=[codes.SCT.Breast],
        display_color=_RED,
    )


def _series_number(header: Dataset) -> int:
    try:
        number = int(header.get("SeriesNumber") or 0)
    except ValueError:
        number = 0
    return min(max(number, 0) + _AFTER_SOURCE, _LARGEST_NUMBER)


def _amend(seg: Segmentation, source: SegSource, frames: list[int], made: datetime, uids: _Uids) -> None:
    """Put right what highdicom makes up or leaves out."""
    if "SpecificCharacterSet" in source.headers[0]:
        seg.SpecificCharacterSet = source.headers[0].SpecificCharacterSet
    organization = uids.make("dimension")
    for item in (*seg.DimensionOrganizationSequence, *seg.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    if frames != list(range(frames[0], frames[-1] + 1)):
        # highdicom calls every second slice a volume, too; readers would put them one spacing apart
        seg.pop("DimensionOrganizationType", None)
    if source.grid.frame_of_reference is None:
        for name in ("FrameOfReferenceUID", "PositionReferenceIndicator"):
            seg.pop(name, None)
    seg.ContentCreatorName = None  # Type 2
    # no clock: a repeated run gives the same bytes
    del seg.InstanceCreationDate, seg.InstanceCreationTime
    for item in seg.ContributingEquipmentSequence:
        if "ContributionDateTime" in item:
            item.ContributionDateTime = DT(made)
