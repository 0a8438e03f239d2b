"""A PACS by DICOMweb: a DBT series goes up, its mask comes back, and a final mask is stored as DICOM SEG."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import requests
import SimpleITK as sitk
from conftest import Study, check_mask, infer
from monailabel.client import MONAILabelClient
from servers import monai_label, orthanc


@dataclass(frozen=True)
class Pacs:
    """Orthanc's address, MONAI Label's client, and the SeriesInstanceUID of the phantom series in Orthanc."""

    address: str
    client: MONAILabelClient
    series: str

    def instances(self, modality: str) -> list[pydicom.Dataset]:
        """Return the objects of a modality that Orthanc holds."""
        query = {"Level": "Instance", "Query": {"Modality": modality}}
        found = requests.post(f"{self.address}/tools/find", json=query, timeout=30).json()
        files = [requests.get(f"{self.address}/instances/{one}/file", timeout=30).content for one in found]
        return [pydicom.dcmread(io.BytesIO(file)) for file in files]


@pytest.fixture(scope="module")
def pacs(app: Path, study: Study, folder: Path) -> Iterator[Pacs]:
    """An Orthanc with the phantom's series and a MONAI Label server on it."""
    with orthanc(folder / "orthanc") as address:
        requests.post(f"{address}/instances", data=study.dicom.read_bytes(), timeout=60).raise_for_status()
        series = str(pydicom.dcmread(study.dicom, stop_before_pixels=True).SeriesInstanceUID)
        environment = {
            "MONAI_LABEL_DICOMWEB_SEARCH_FILTER": '{"Modality":"MG"}',
            "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(folder / "cache"),
        }
        with monai_label(app, f"{address}/dicom-web", folder / "pacs", **environment) as client:
            yield Pacs(address, client, series)


def test_a_series_is_listed(pacs: Pacs) -> None:
    assert pacs.client.next_sample("first", {})["id"] == pacs.series


def test_a_series_mask_lies_on_its_grid(pacs: Pacs, study: Study, tmp_path: Path) -> None:
    answer = infer(pacs.client, pacs.series, tmp_path / "mask.nii.gz")

    mask, volume = sitk.ReadImage(str(answer)), sitk.ReadImage(str(study.dicom))
    assert mask.GetSize() == volume.GetSize()
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(mask, name)(), getattr(volume, name)(), atol=1e-3)
    check_mask(np.asarray(nib.load(answer).dataobj), nib.load(study.mask).get_fdata())


def test_a_final_mask_is_stored_in_the_pacs(pacs: Pacs, study: Study, tmp_path: Path) -> None:
    answer = infer(pacs.client, pacs.series, tmp_path / "mask.nii.gz")

    pacs.client.save_label(pacs.series, str(answer), tag="final", params={"label_info": [{"name": "mass"}]})

    (seg,) = pacs.instances("SEG")
    assert str(seg.ReferencedSeriesSequence[0].SeriesInstanceUID) == pacs.series
    assert [item.SegmentLabel for item in seg.SegmentSequence] == ["mass"]
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(answer)))
    placed = {
        tuple(round(float(v), 2) for v in frame.PlanePositionSequence[0].ImagePositionPatient): pixels
        for frame, pixels in zip(
            seg.PerFrameFunctionalGroupsSequence, np.atleast_3d(seg.pixel_array), strict=True
        )
    }
    volume = sitk.ReadImage(str(study.dicom))
    for k in range(volume.GetDepth()):
        where = tuple(round(v, 2) for v in volume.TransformIndexToPhysicalPoint((0, 0, k)))
        expected = placed.get(where, np.zeros_like(mask[k]))
        np.testing.assert_array_equal(expected, mask[k])
