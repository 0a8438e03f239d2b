"""A PACS by DICOMweb: a DBT series goes up, its mask comes back, final masks are stored and trained on."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import requests
import SimpleITK as sitk  # noqa: N813 (the name its manual gives it)
from conftest import IMAGE_SIZE, Study, check_mask, infer, lay_out, wait_for_training
from monailabel.client import MONAILabelClient
from monailabel.datastore.utils.convert import dicom_seg_to_itk_image
from servers import monai_label, orthanc


@dataclass(frozen=True)
class Pacs:
    """Orthanc's address, MONAI Label's client, and the studies in Orthanc by their SeriesInstanceUID."""

    address: str
    client: MONAILabelClient
    studies: dict[str, Study]

    def series(self) -> tuple[str, Study]:
        """Return the first series and its study."""
        return next(iter(self.studies.items()))

    def instances(self, modality: str) -> list[bytes]:
        """Return the objects of a modality that Orthanc holds."""
        query = {"Level": "Instance", "Query": {"Modality": modality}}
        found = requests.post(f"{self.address}/tools/find", json=query, timeout=30).json()
        return [requests.get(f"{self.address}/instances/{one}/file", timeout=30).content for one in found]


@pytest.fixture(scope="module")
def app(segmenter: Path, folder: Path) -> Path:
    """An app that a training changes."""
    return lay_out(folder / "app_pacs", segmenter)


@pytest.fixture(scope="module")
def pacs(app: Path, study: Study, second_study: Study, folder: Path) -> Iterator[Pacs]:
    """An Orthanc with two of the phantom's series and a MONAI Label server on it."""
    with orthanc(folder / "orthanc") as address:
        studies = {}
        for one in (study, second_study):
            requests.post(f"{address}/instances", data=one.dicom.read_bytes(), timeout=60).raise_for_status()
            studies[str(pydicom.dcmread(one.dicom, stop_before_pixels=True).SeriesInstanceUID)] = one
        environment = {
            "MONAI_LABEL_DICOMWEB_SEARCH_FILTER": '{"Modality":"MG"}',
            "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(folder / "cache"),
        }
        with monai_label(app, f"{address}/dicom-web", folder / "pacs", **environment) as client:
            yield Pacs(address, client, studies)


def test_the_series_are_listed(pacs: Pacs) -> None:
    assert pacs.client.next_sample("first", {})["id"] == min(pacs.studies)
    assert pacs.client.info()["datastore"]["total"] == 2


def test_a_series_mask_lies_on_its_grid(pacs: Pacs, tmp_path: Path) -> None:
    series, study = pacs.series()
    answer = infer(pacs.client, series, tmp_path / "mask.nii.gz")

    mask, volume = sitk.ReadImage(str(answer)), sitk.ReadImage(str(study.dicom))
    assert mask.GetSize() == volume.GetSize()
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(mask, name)(), getattr(volume, name)(), atol=1e-3)
    check_mask(np.asarray(nib.load(answer).dataobj), nib.load(study.mask).get_fdata())


def test_what_readers_submit_is_stored_in_the_pacs_and_trained_on(pacs: Pacs, app: Path, tmp_path: Path) -> None:
    for series, study in pacs.studies.items():
        label_info = {"label_info": [{"name": "mass"}]}
        submitted = sitk.ReadImage(str(study.mask))
        if study is not pacs.series()[1]:  # a client may store the axes in another order
            submitted = sitk.Flip(submitted, (True, False, True))
        sitk.WriteImage(submitted, str(tmp_path / "submitted.nii.gz"))
        pacs.client.save_label(series, str(tmp_path / "submitted.nii.gz"), tag="final", params=label_info)

    stored = pacs.instances("SEG")
    assert len(stored) == 2
    for number, content in enumerate(stored):
        seg = pydicom.dcmread(io.BytesIO(content))
        study = pacs.studies[str(seg.ReferencedSeriesSequence[0].SeriesInstanceUID)]
        assert [item.SegmentLabel for item in seg.SegmentSequence] == ["mass"]
        file = tmp_path / f"{number}.dcm"
        file.write_bytes(content)
        back = sitk.ReadImage(dicom_seg_to_itk_image(str(file)))  # another reader: pydicom-seg
        truth, volume = sitk.ReadImage(str(study.mask)), sitk.ReadImage(str(study.dicom))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(truth))
        for name in ("GetSpacing", "GetOrigin", "GetDirection"):
            np.testing.assert_allclose(getattr(back, name)(), getattr(volume, name)(), atol=1e-3)
        derived = [frame.DerivationImageSequence[0] for frame in seg.PerFrameFunctionalGroupsSequence]
        sources = sorted(int(one.SourceImageSequence[0].ReferencedFrameNumber) for one in derived)
        assert sources == list(range(1, volume.GetDepth() + 1))

    params = {"device": "cpu", "max_epochs": 1, "val_split": 0.5, "image_size": IMAGE_SIZE}
    pacs.client.train_start("pig_dbt", params)

    assert wait_for_training(pacs.client)["status"] == "DONE"
    meta = json.loads((app / "model/pig_dbt/models/model.json").read_text())
    assert (meta["pairs"], meta["epoch"], meta["datalist_sha256"], meta["fold"]) == (0, 1, None, -1)
