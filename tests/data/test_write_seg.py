"""What is in a segmentation: read back by highdicom, and by pydicom with the bits unpacked by hand."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from highdicom._standard_utils import get_iod_module_map, get_module_attribute_map
from pydicom import uid
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from pig_monai.data.dicom import open_volume
from pig_monai.data.masks import open_masks
from pig_monai.data.seg_source import read_source
from pig_monai.data.volume import UnusableError
from pig_monai.data.write_seg import build_segmentation, encode
from tests.data.dbt_objects import FRAMES, ORIGIN, SPACING, affine, build_slices, item, pixels, save, save_mask
from tests.data.segmentations import FRAME_OF_REFERENCE, WHAT_SEG_COPIES, source

ORDER = [2, 0, 3, 1]  # where each stored frame lies
MADE = datetime(2024, 5, 17, 9, 30, 1)
ROWS, COLUMNS = 59, 37  # a frame is no whole number of bytes
PLACED = [1, 2, 3]  # where the mask is


def truth() -> np.ndarray:
    """A mask (frames by place, rows, columns) that is another one in each frame, flip and turn."""
    mask = np.zeros((FRAMES, ROWS, COLUMNS), np.uint8)
    mask[1:3, 20:30, 8:14] = 1
    mask[2, 40:44, 30:33] = 1
    mask[3, 5, 7] = mask[1, 58, 36] = 1
    return mask


def stored_pixels() -> np.ndarray:
    return np.ascontiguousarray(pixels()[:, :ROWS, :COLUMNS])


def write(paths: Sequence[Path], mask: Path, out: Path, algorithm: str = "automatic") -> Dataset:
    """Write the segmentation, and return what pydicom reads of it."""
    given = read_source(paths)
    seg = build_segmentation(given, open_masks([mask], given.grid, volumetric=True), algorithm, MADE)
    assert seg is not None
    out.write_bytes(encode(seg))
    return pydicom.dcmread(out)


def by_hand(ds: Dataset) -> dict[tuple[str, int], np.ndarray]:
    """(referenced SOPInstanceUID, frame number or 1) → mask (rows, columns): 8 pixels a byte, frames unpadded."""
    rows, columns = int(ds.Rows), int(ds.Columns)
    bits = np.unpackbits(np.frombuffer(ds.PixelData, np.uint8), bitorder="little")
    frames = {}
    for number, groups in enumerate(ds.PerFrameFunctionalGroupsSequence):
        (reference,) = groups.DerivationImageSequence[0].SourceImageSequence
        assert reference.SpatialLocationsPreserved == "YES"
        place = str(reference.ReferencedSOPInstanceUID), int(reference.get("ReferencedFrameNumber", 1))
        size = rows * columns
        frames[place] = bits[number * size : (number + 1) * size].reshape(rows, columns)
    return frames


def by_our_reader(paths: Sequence[Path], seg: Path) -> np.ndarray:
    volume = open_volume(paths)
    mask = open_masks([seg], volume.grid, volumetric=True)
    return np.stack([mask.mask(index).T for index in range(volume.grid.size[2])])


def oblique(degrees: float = 50) -> tuple[Dataset, np.ndarray]:
    """An MLO volume turned about the y axis, and its NIfTI affine by hand."""
    turn = np.deg2rad(degrees)
    along, down = np.array([np.cos(turn), 0, np.sin(turn)]), np.array([0.0, 1.0, 0.0])
    normal = np.cross(along, down)
    ds = source(stored_pixels(), order=ORDER)
    ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient = [
        *(round(float(v), 8) for v in along),
        *down.tolist(),
    ]
    corners = [np.array(ORIGIN) + place * SPACING[2] * normal for place in range(FRAMES)]
    for groups, place in zip(ds.PerFrameFunctionalGroupsSequence, ORDER, strict=True):
        groups.PlanePositionSequence[0].ImagePositionPatient = [round(float(v), 8) for v in corners[place]]
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([along * SPACING[0], down * SPACING[1], normal * SPACING[2]], axis=1)
    matrix[:3, 3] = ORIGIN
    return ds, np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix


@pytest.mark.parametrize("tilted", [False, True])
def test_mask_lies_on_the_frames_it_was_drawn_on(tmp_path: Path, tilted: bool) -> None:
    volume, matrix = oblique() if tilted else (source(stored_pixels(), order=ORDER), affine())
    path = save(volume, tmp_path / "v.dcm")
    seg = write([path], save_mask(truth(), tmp_path / "v.nii.gz", matrix), tmp_path / "seg.dcm")

    frames = by_hand(seg)
    assert sorted(frames) == sorted((volume.SOPInstanceUID, ORDER.index(place) + 1) for place in PLACED)
    for (_, number), mask in frames.items():
        np.testing.assert_array_equal(mask, truth()[ORDER[number - 1]])
    positions = [g.PlanePositionSequence[0].ImagePositionPatient for g in volume.PerFrameFunctionalGroupsSequence]
    for groups, (_, number) in zip(seg.PerFrameFunctionalGroupsSequence, frames, strict=True):
        assert groups.PlanePositionSequence[0].ImagePositionPatient == positions[number - 1]

    by_highdicom = hd.seg.segread(tmp_path / "seg.dcm").get_pixels_by_source_frame(
        volume.SOPInstanceUID, range(1, FRAMES + 1), assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(by_highdicom[..., 0], truth()[ORDER])
    np.testing.assert_array_equal(by_our_reader([path], tmp_path / "seg.dcm"), truth())


def test_highdicom_places_its_voxels_in_the_patient_as_nifti_does(tmp_path: Path) -> None:
    volume, matrix = oblique()
    path = save(volume, tmp_path / "v.dcm")
    write([path], save_mask(truth(), tmp_path / "v.nii.gz", matrix), tmp_path / "seg.dcm")
    found = hd.seg.segread(tmp_path / "seg.dcm").get_volume(combine_segments=True)
    voxels = np.argwhere(found.array)
    in_patient = (found.affine @ np.c_[voxels, np.ones(len(voxels))].T).T[:, :3] * [-1, -1, 1]
    frame, row, column = np.nonzero(truth())
    expected = (matrix @ np.stack([column, row, frame, np.ones(len(row))])).T[:, :3]
    order = [np.lexsort(np.round(points, 3).T) for points in (in_patient, expected)]
    np.testing.assert_allclose(in_patient[order[0]], expected[order[1]], atol=1e-3)


@pytest.mark.parametrize("axes", itertools.permutations(range(3)))
def test_turned_and_flipped_nifti_gives_the_same_object(tmp_path: Path, axes: tuple[int, ...]) -> None:
    volume, matrix = oblique()
    path = save(volume, tmp_path / "v.dcm")
    mask = save_mask(truth(), tmp_path / "v.nii.gz", matrix)
    write([path], mask, tmp_path / "seg.dcm")
    for flips in itertools.product((1, -1), repeat=3):
        turned = nib.load(mask).as_reoriented(np.stack([axes, flips], axis=1))
        nib.save(turned, tmp_path / "turned.nii.gz")
        write([path], tmp_path / "turned.nii.gz", tmp_path / "again.dcm")
        assert (tmp_path / "again.dcm").read_bytes() == (tmp_path / "seg.dcm").read_bytes(), flips


def test_slices_of_one_file_each_are_referenced_one_by_one(tmp_path: Path) -> None:
    slices = build_slices(stored_pixels(), **(WHAT_SEG_COPIES | {"SliceThickness": None}))
    paths = [save(ds, tmp_path / "v" / f"{place}.dcm") for place, ds in enumerate(slices)]
    seg = write(paths, save_mask(truth(), tmp_path / "v.nii.gz"), tmp_path / "seg.dcm")
    frames = by_hand(seg)
    assert sorted(frames) == sorted((slices[place].SOPInstanceUID, 1) for place in PLACED)
    for place in PLACED:
        np.testing.assert_array_equal(frames[slices[place].SOPInstanceUID, 1], truth()[place])
    references = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {r.ReferencedSOPInstanceUID for r in references} == {ds.SOPInstanceUID for ds in slices}
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert (measures.SliceThickness, measures.SpacingBetweenSlices) == (SPACING[2], SPACING[2])
    by_highdicom = hd.seg.segread(tmp_path / "seg.dcm").get_pixels_by_source_instance(
        [ds.SOPInstanceUID for ds in slices], assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(by_highdicom[..., 0], truth())
    np.testing.assert_array_equal(by_our_reader(paths, tmp_path / "seg.dcm"), truth())


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


def test_a_missing_frame_of_reference_is_not_made_up(tmp_path: Path) -> None:
    for kind in ("volume", "slices"):
        if kind == "volume":
            objects = [source(stored_pixels(), order=ORDER)]
        else:
            objects = build_slices(stored_pixels(), **WHAT_SEG_COPIES)
        for ds in objects:
            del ds.FrameOfReferenceUID
        paths = [save(ds, tmp_path / kind / f"{number}.dcm") for number, ds in enumerate(objects)]
        seg = write(paths, save_mask(truth(), tmp_path / "v.nii.gz"), tmp_path / "seg.dcm")
        assert "FrameOfReferenceUID" not in seg
        assert "PlanePositionSequence" in seg.PerFrameFunctionalGroupsSequence[0]
        np.testing.assert_array_equal(by_our_reader(paths, tmp_path / "seg.dcm"), truth())


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


def test_only_headers_are_read(tmp_path: Path) -> None:
    """Pixels that are compressed, truncated, broken or in a syntax that nobody decodes are no hindrance."""
    plain = save(source(stored_pixels(), order=ORDER), tmp_path / "plain.dcm")
    mask = save_mask(truth(), tmp_path / "v.nii.gz")
    reference = by_hand(write([plain], mask, tmp_path / "seg.dcm"))
    volume = pydicom.dcmread(plain)
    volume.compress(uid.JPEG2000Lossless, generate_instance_uid=False)
    whole = save(volume, tmp_path / "j2k.dcm").read_bytes()
    start = whole.index(b"\xff\x4f\xff\x51")  # the first codestream
    contents = {
        "compressed": whole,
        "broken": whole[:start] + bytes(len(whole) - start),
        "truncated": whole[: start + 10],
        "unknown": whole.replace(b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.4.57"),
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.dcm").write_bytes(content)
        seg = write([tmp_path / f"{name}.dcm"], mask, tmp_path / "again.dcm")
        again = by_hand(seg)
        assert again.keys() == reference.keys(), name
        assert all((again[key] == reference[key]).all() for key in again), name


def test_measures_are_the_grids_wherever_the_header_has_them(tmp_path: Path) -> None:
    """Per frame, and without the gap between slices: sparse frames must not be taken for neighbours."""
    volume = source(stored_pixels())
    shared = volume.SharedFunctionalGroupsSequence[0]
    for groups in volume.PerFrameFunctionalGroupsSequence:
        groups.PixelMeasuresSequence = shared.PixelMeasuresSequence
        groups.PlaneOrientationSequence = shared.PlaneOrientationSequence
    del shared.PixelMeasuresSequence, shared.PlaneOrientationSequence
    path = save(volume, tmp_path / "v.dcm")
    sparse = truth()
    sparse[0], sparse[1], sparse[3] = sparse[2], 0, 0
    seg = write([path], save_mask(sparse, tmp_path / "v.nii.gz"), tmp_path / "seg.dcm")
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert list(measures.PixelSpacing) == [SPACING[1], SPACING[0]]
    assert measures.SpacingBetweenSlices == SPACING[2]
    assert seg.get("DimensionOrganizationType") != "3D"  # equally spaced they are, but not by that
    np.testing.assert_array_equal(by_our_reader([path], tmp_path / "seg.dcm"), sparse)
    found = hd.seg.segread(tmp_path / "seg.dcm").get_volume(combine_segments=True, allow_missing_positions=True)
    assert found.array.any(axis=(1, 2)).tolist() == [True, False, True]


def mammogram() -> Dataset:
    (ds,) = build_slices(
        stored_pixels()[:1],
        sop_class=uid.DigitalMammographyXRayImageStorageForPresentation,
        **(WHAT_SEG_COPIES | {"ImagerPixelSpacing": [0.1, 0.1]}),
    )
    for name in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "FrameOfReferenceUID"):
        del ds[name]
    return ds


def test_a_mammogram_is_placed_by_reference(tmp_path: Path) -> None:
    volume = mammogram()
    path = save(volume, tmp_path / "v.dcm")
    drawn = truth()[2:3]
    seg = write([path], save_mask(drawn, tmp_path / "v.nii.gz"), tmp_path / "seg.dcm")
    assert "FrameOfReferenceUID" not in seg
    assert "PlanePositionSequence" not in seg.PerFrameFunctionalGroupsSequence[0]
    assert list(by_hand(seg)) == [(volume.SOPInstanceUID, 1)]
    np.testing.assert_array_equal(by_hand(seg)[volume.SOPInstanceUID, 1], drawn[0])
    np.testing.assert_array_equal(by_our_reader([path], tmp_path / "seg.dcm"), drawn)
    seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[
        0
    ].SpatialLocationsPreserved = "NO"
    with pytest.raises(UnusableError, match="the volume has no geometry"):
        by_our_reader([path], save(seg, tmp_path / "moved.dcm"))


def test_series_that_cannot_be_referred_to_are_refused(tmp_path: Path) -> None:
    without = source(stored_pixels())
    without.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0, 0]
    more = source(stored_pixels(), NumberOfFrames=10**9)
    nobody = source(stored_pixels(), StudyInstanceUID="")
    flat = mammogram()
    flat.NumberOfFrames = 2
    flat.PerFrameFunctionalGroupsSequence = [item(), item()]
    reasons = {
        "the series does not say where its frames lie": [without, flat],
        "it claims 1000000000 frames and describes 4": [more],
        "its header lacks StudyInstanceUID": [nobody],
    }
    for reason, objects in reasons.items():
        for ds in objects:
            with pytest.raises(UnusableError, match=reason):
                read_source([save(ds, tmp_path / "v.dcm")])


def test_an_empty_mask_is_no_segmentation(tmp_path: Path) -> None:
    given = read_source([save(source(stored_pixels()), tmp_path / "v.dcm")])
    masks = open_masks([save_mask(truth() * 0, tmp_path / "v.nii.gz")], given.grid, volumetric=True)
    assert build_segmentation(given, masks, "automatic", MADE) is None
