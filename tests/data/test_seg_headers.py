"""What a segmentation says of itself and of whom it shows."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from highdicom._standard_utils import get_iod_module_map, get_module_attribute_map
from pydicom.dataelem import RawDataElement

from tests.data.dbt_objects import save, save_mask
from tests.data.segmentations import FRAME_OF_REFERENCE, source
from tests.data.written_segs import (
    by_our_reader,
    mammogram,
    stored_pixels,
    truth,
    write,
)


def test_header_says_what_it_is_and_whose(tmp_path: Path) -> None:
    volume = source(
        stored_pixels(), StudyDescription="Screening", PatientAge="063Y", IssuerOfPatientID="SITE", SeriesNumber=7
    )
    path = save(volume, tmp_path / "v.dcm")
    seg = write([path], save_mask(truth(), tmp_path / "v.nii.gz"), tmp_path / "seg.dcm")
    same = (
        "PatientName PatientID PatientBirthDate PatientSex PatientAge IssuerOfPatientID StudyInstanceUID "
        "StudyDate StudyTime StudyID AccessionNumber StudyDescription ReferringPhysicianName FrameOfReferenceUID"
    )
    for name in same.split():
        assert seg[name].value == volume[name].value, name
    assert seg.FrameOfReferenceUID == FRAME_OF_REFERENCE
    series = seg.ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == volume.SeriesInstanceUID != seg.SeriesInstanceUID
    assert series.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == volume.SOPInstanceUID
    assert (seg.Modality, seg.SegmentationType, seg.ContentLabel) == ("SEG", "BINARY", "MASS")
    assert (seg.SeriesNumber, seg.SeriesDate, seg.ContentDate) == (1007, "20240517", "20240517")
    assert seg.ContentTime == "093001"
    assert all(seg[n].value.startswith("2.25.") for n in ("SOPInstanceUID", "SeriesInstanceUID"))
    (segment,) = seg.SegmentSequence
    codes = [
        segment[n].value[0].CodingSchemeDesignator + segment[n].value[0].CodeValue
        for n in (
            "SegmentedPropertyCategoryCodeSequence",
            "SegmentedPropertyTypeCodeSequence",
            "AnatomicRegionSequence",
        )
    ]
    assert codes == ["SCT49755003", "SCT4147007", "SCT76752008"]  # abnormal structure, mass, breast
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    assert segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName.startswith("pig-monai")


def test_algorithm_is_named_unless_a_person_drew_the_mask(tmp_path: Path) -> None:
    path = save(source(stored_pixels()), tmp_path / "v.dcm")
    mask = save_mask(truth(), tmp_path / "v.nii.gz")
    uids = set()
    for algorithm in ("automatic", "semiautomatic", "manual"):
        seg = write([path], mask, tmp_path / "seg.dcm", algorithm)
        (segment,) = seg.SegmentSequence
        assert segment.SegmentAlgorithmType == algorithm.upper()
        assert ("SegmentAlgorithmName" in segment) == (algorithm != "manual")
        uids.add(seg.SOPInstanceUID)
    assert len(uids) == 3


@pytest.mark.parametrize("kind", ["volume", "mammogram"])
def test_every_required_attribute_is_there(tmp_path: Path, kind: str) -> None:
    """Types 1 and 2 of the modules that PS3.3 A.51 makes mandatory, by the tables of highdicom."""
    volume = source(stored_pixels()) if kind == "volume" else mammogram()
    path = save(volume, tmp_path / "v.dcm")
    drawn = truth() if kind == "volume" else truth()[2:3]
    seg = write([path], save_mask(drawn, tmp_path / "v.nii.gz"), tmp_path / "seg.dcm")
    modules = [module["key"] for module in get_iod_module_map()["segmentation"] if module["usage"] == "M"]
    assert {"segmentation-image", "enhanced-general-equipment", "multi-frame-dimension"} < set(modules)
    for module in modules:
        for attribute in get_module_attribute_map()[module]:
            name, needed = attribute["keyword"], attribute["type"]
            if attribute["path"] in (["SharedFunctionalGroupsSequence"], ["PerFrameFunctionalGroupsSequence"]):
                continue  # which of the two holds a group is free: see below
            inside = [seg]
            for part in attribute["path"]:
                inside = [one for ds in inside for one in ds.get(part) or []]
            for ds in inside if needed in ("1", "2") else []:
                assert name in ds, (module, attribute["path"], name)
                assert needed == "2" or ds[name].value not in (None, ""), (module, name)
    for groups in seg.PerFrameFunctionalGroupsSequence:
        both = {e.keyword for e in groups} | {e.keyword for e in seg.SharedFunctionalGroupsSequence[0]}
        assert {"FrameContentSequence", "SegmentIdentificationSequence", "DerivationImageSequence"} <= both
        in_space = {"PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"}
        assert (in_space <= both) == ("FrameOfReferenceUID" in seg) == (kind == "volume")


def test_what_hospitals_leave_out_is_left_empty(tmp_path: Path) -> None:
    volume = source(stored_pixels(), PatientSex="U")
    left_out = [
        "PatientBirthDate",
        "StudyID",
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "ReferringPhysicianName",
    ]
    for name in [*left_out, "Modality", "InstanceNumber", "Manufacturer"]:
        del volume[name]
    path = save(volume, tmp_path / "v.dcm")
    seg = write([path], save_mask(truth(), tmp_path / "v.nii.gz"), tmp_path / "seg.dcm")
    for name in [*left_out, "PatientSex"]:
        assert name in seg, name
        assert not seg[name].value, name
    np.testing.assert_array_equal(by_our_reader([path], tmp_path / "seg.dcm"), truth())


@pytest.mark.parametrize(
    ("character_set", "encoded"),
    [
        (None, "Müller^Zoë".encode("latin-1")),
        ("ISO_IR 100", "Müller^Zoë".encode("latin-1")),
        ("ISO_IR 192", "Müller^Zoë".encode()),
        (["", "ISO 2022 IR 87"], b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"),  # PS3.5 H.3.1
        ("ISO-IR 100", "Müller^Zoë".encode("latin-1")),  # as some write it
    ],
)
def test_names_keep_their_letters(tmp_path: Path, character_set: str | list[str] | None, encoded: bytes) -> None:
    volume = source(stored_pixels(), PatientName=encoded)
    if character_set:
        volume.SpecificCharacterSet = character_set
    path = save(volume, tmp_path / "v.dcm")
    write([path], save_mask(truth(), tmp_path / "v.nii.gz"), tmp_path / "seg.dcm")
    assert encoded in (tmp_path / "seg.dcm").read_bytes()
    assert pydicom.dcmread(tmp_path / "seg.dcm").PatientName == pydicom.dcmread(path).PatientName


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("PatientBirthDate", b"00000000", False),
        ("StudyDate", b"20201399", False),
        ("StudyTime", b"9:30", False),
        ("AccessionNumber", b"12345678901234567890", True),  # too long, yet what the archive knows it by
        ("PatientID", "A-ÄÖ".encode("latin-1"), True),
        ("PatientAge", b"63", True),
        ("SeriesNumber", b"abc ", False),
    ],
)
def test_invalid_values_are_no_hindrance(tmp_path: Path, name: str, value: bytes, kept: bool) -> None:
    path = save(source(stored_pixels()), tmp_path / "v.dcm")
    ds = pydicom.dcmread(path)
    tag = pydicom.tag.Tag(name)
    ds[name] = RawDataElement(tag, pydicom.datadict.dictionary_VR(tag), len(value), value, 0, False, True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(ds, path)
        seg = write([path], save_mask(truth(), tmp_path / "v.nii.gz"), tmp_path / "seg.dcm")
        if name == "SeriesNumber":
            assert seg.SeriesNumber == 1000
        else:
            assert bool(seg[name].value) == kept
            assert not kept or value in (tmp_path / "seg.dcm").read_bytes()
