"""DICOM segmentations for tests, built by highdicom without the package under test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from tests.data.dbt_objects import build, pixels

FRAME_OF_REFERENCE = "1.2.826.0.1.3680043.8.498.77"
WHAT_SEG_COPIES = {
    "FrameOfReferenceUID": FRAME_OF_REFERENCE,
    "StudyDate": "20200101",
    "StudyTime": "0000",
    "StudyID": "1",
    "AccessionNumber": "1",
    "PatientSex": "F",
    "ReferringPhysicianName": "Dr^Who",
    "Modality": "MG",
    "InstanceNumber": 1,
}


def source(stored: np.ndarray | None = None, **options: Any) -> Dataset:
    """A volume as `build` makes it, with what a segmentation copies from it."""
    return build(pixels() if stored is None else stored, **(WHAT_SEG_COPIES | options))


def segmentation(
    volume: Dataset | list[Dataset],
    array: Any,
    kind: str = "BINARY",
    syntax: str = uid.ExplicitVRLittleEndian,
    **options: Any,
) -> hd.seg.Segmentation:
    """Segment a volume.

    Args:
        volume: from `source`; or one object per slice.
        array: stored frames as they lie in the volume (frames, rows, columns[, segments]), or a `hd.Volume`.
        kind: BINARY, FRACTIONAL or LABELMAP.
        syntax: transfer syntax.
        options: go to highdicom.
    """
    pixel_array = array.array if isinstance(array, hd.Volume) else array
    count = pixel_array.shape[3] if pixel_array.ndim == 4 else max(1, int(np.ceil(pixel_array.max())))
    described = [
        hd.seg.SegmentDescription(
            number + 1,
            f"mass {number}",
            codes.SCT.MorphologicallyAbnormalStructure,
            codes.SCT.Neoplasm,
            hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number in range(count)
    ]
    new = [uid.generate_uid("1.2.826.0.1.3680043.8.498.") for _ in range(2)]
    sources = volume if isinstance(volume, list) else [volume]
    return hd.seg.Segmentation(
        sources, array, kind, described, new[0], 1, new[1], 1, "Maker", "model", "1", "serial",
        transfer_syntax_uid=syntax, **options,
    )  # fmt: skip


def save_segmentation(seg: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    seg.save_as(path)
    return path
