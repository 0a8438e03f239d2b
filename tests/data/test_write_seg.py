"""Where a segmentation lies: read back by highdicom, and by pydicom with the bits unpacked by hand."""

from __future__ import annotations

import itertools
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom import uid

from pig_monai.data.masks import open_masks
from pig_monai.data.seg_source import read_source
from pig_monai.data.volume import UnusableError
from pig_monai.data.write_seg import build_segmentation
from tests.data.dbt_objects import FRAMES, SPACING, affine, build_slices, item, save, save_mask
from tests.data.segmentations import WHAT_SEG_COPIES, source
from tests.data.written_segs import (
    MADE,
    ORDER,
    PLACED,
    by_hand,
    by_our_reader,
    mammogram,
    oblique,
    stored_pixels,
    truth,
    write,
)


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
