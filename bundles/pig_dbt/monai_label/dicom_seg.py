"""Masks as DICOM SEG: MONAI Label's own converter, dcmqi, takes no multi-frame objects, which DBT series are.

It runs in MONAI Label's environment, where nothing of pig-monai is installed.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import pydicom
import SimpleITK as sitk  # noqa: N813 (the name its manual gives it)
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

MODEL = "pig_dbt"
SERIES_NUMBER = 300  # as MONAI Label numbers them


def nifti_to_dicom_seg(
    series_dir: str, label: str, label_info: Any, file_ext: str = "*", use_itk: bool = True
) -> str:
    """Write a mask as a DICOM SEG object of the series that it belongs to.

    It takes the place, and so has the signature, of MONAI Label's function of this name. Every slice of the series
    becomes a frame, empty ones too: where MONAI Label reads labels to train on, it rebuilds the volume from the
    frames alone.

    Args:
        series_dir: folder with the series' objects.
        label: NIfTI file of a mask that covers the series; above 0 is mass.
        label_info: what the client says of the label; its first name is the segment's, by default "mass".
        file_ext: not needed.
        use_itk: not needed.

    Returns:
        A new file. An empty mask is one, too: a lesion-free volume, said by a reader.
    """
    objects, volume = _read_series(series_dir)
    # whatever the order of the axes in the client's file
    mask = sitk.Resample(sitk.ReadImage(label), volume, sitk.Transform(), sitk.sitkNearestNeighbor)
    described = label_info[0] if label_info else {}
    algorithm = hd.AlgorithmIdentificationSequence(
        name=MODEL, family=codes.DCM.ArtificialIntelligence, version=_version()
    )
    segment = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label=str(described.get("name") or "mass"),
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=Code("4147007", "SCT", "Mass"),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,  # what is stored was sent by a reader
        algorithm_identification=algorithm,
    )
    seg = hd.seg.Segmentation(
        source_images=objects,
        pixel_array=sitk.GetArrayFromImage(mask) > 0,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        series_instance_uid=hd.UID(),
        series_number=SERIES_NUMBER,
        series_description="Masses",
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="pig-monai",
        manufacturer_model_name=MODEL,
        software_versions=_version(),
        device_serial_number="1",
        omit_empty_frames=False,
    )
    handle, name = tempfile.mkstemp(suffix=".dcm")
    os.close(handle)
    seg.save_as(name)
    return name


def _version() -> str:
    metadata = Path(__file__).parent / "model" / MODEL / "configs/metadata.json"
    return str(json.loads(metadata.read_text())["version"])


def _read_series(folder: str) -> tuple[list[pydicom.Dataset], sitk.Image]:
    """Return a series' objects and its volume, whose slices are the objects' frames in their order.

    Args:
        folder: the series, one multi-frame object or one object a slice.
    """
    files: Sequence[str] = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(folder)
    volume = sitk.ReadImage(files if len(files) > 1 else files[0])
    return [pydicom.dcmread(file, stop_before_pixels=True) for file in files], volume
