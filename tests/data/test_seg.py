from __future__ import annotations

import itertools
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder

from pig_monai.data.dicom import open_dicom
from pig_monai.data.masks import open_masks
from pig_monai.data.seg import is_segmentation, read_references
from pig_monai.data.volume import UnusableError, Volume
from tests.data.dbt_objects import COLUMNS, FRAMES, ORIGIN, ROWS, SPACING, lesion, pixels, save
from tests.data.segmentations import FRAME_OF_REFERENCE, save_segmentation, segmentation, source

ORDER = [2, 0, 3, 1]  # where each stored frame lies


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return open_dicom(save(source(order=ORDER), tmp_path / "v.dcm"))


def truth() -> np.ndarray:
    """A mask (frames, rows, columns) that is another one in each frame and flip; the first frame is empty."""
    mask = lesion([1, 2])
    mask[2, 40:44, 30:33] = 1
    mask[3, 5, 7] = 1
    return mask


def read(path: Path, volume: Volume) -> np.ndarray:
    mask = open_masks([path], volume.grid, volumetric=True)
    return np.stack([mask.mask(index).T for index in range(volume.grid.size[2])])


@pytest.mark.parametrize(
    ("kind", "syntax"),
    [
        ("BINARY", uid.ExplicitVRLittleEndian),
        ("BINARY", uid.ImplicitVRLittleEndian),
        ("BINARY", uid.JPEG2000Lossless),
        ("FRACTIONAL", uid.ExplicitVRLittleEndian),
        ("FRACTIONAL", uid.RLELossless),
        ("LABELMAP", uid.ExplicitVRLittleEndian),
        ("LABELMAP", uid.JPEGLSLossless),
        ("LABELMAP", uid.RLELossless),
    ],
)
def test_every_kind_is_read_voxel_by_voxel(tmp_path: Path, volume: Volume, kind: str, syntax: str) -> None:
    seg = segmentation(source(order=ORDER), truth()[ORDER], kind, syntax)
    assert seg.NumberOfFrames == 3  # the empty one is not stored
    path = save_segmentation(seg, tmp_path / "seg.dcm")
    np.testing.assert_array_equal(read(path, volume), truth())


def test_segments_are_merged(tmp_path: Path, volume: Volume) -> None:
    other = np.roll(truth(), (1, 3, 4), axis=(0, 1, 2))
    both = np.stack([truth(), other], axis=-1)[ORDER]  # they overlap
    path = save_segmentation(segmentation(source(order=ORDER), both), tmp_path / "binary.dcm")
    np.testing.assert_array_equal(read(path, volume), truth() | other)
    labels = np.where(other > 0, 2, truth())[ORDER].astype(np.uint8)
    path = save_segmentation(segmentation(source(order=ORDER), labels, "LABELMAP"), tmp_path / "labels.dcm")
    np.testing.assert_array_equal(read(path, volume), truth() | other)


def test_fractions_count_from_half_of_the_maximum_on(tmp_path: Path, volume: Volume) -> None:
    parts = np.zeros((FRAMES, ROWS, COLUMNS), np.float32)
    parts[1, 3, :5] = 0.2, 0.49, 0.5, 0.51, 1.0
    for most in (100, 255):
        seg = segmentation(source(order=ORDER), parts[ORDER], "FRACTIONAL", max_fractional_value=most)
        path = save_segmentation(seg, tmp_path / f"{most}.dcm")
        stored = np.round(parts * most)
        np.testing.assert_array_equal(read(path, volume), stored > most / 2, err_msg=str(most))


def test_frames_are_placed_by_position_in_any_order(tmp_path: Path, volume: Volume) -> None:
    seg = segmentation(source(order=ORDER), truth()[ORDER], "FRACTIONAL")
    frames = np.frombuffer(seg.PixelData, np.uint8).reshape(3, ROWS, COLUMNS)
    for order in itertools.permutations(range(3)):
        seg.PixelData = frames[list(order)].tobytes()
        groups = list(
            segmentation(source(order=ORDER), truth()[ORDER], "FRACTIONAL").PerFrameFunctionalGroupsSequence
        )
        seg.PerFrameFunctionalGroupsSequence = [groups[place] for place in order]
        path = save_segmentation(seg, tmp_path / "seg.dcm")
        np.testing.assert_array_equal(read(path, volume), truth(), err_msg=str(order))


@pytest.mark.parametrize("axes", itertools.permutations(range(3)))
def test_turned_and_flipped_grids_are_put_right(tmp_path: Path, volume: Volume, axes: tuple[int, ...]) -> None:
    """The same mask on the same voxels, stored along other axes: highdicom turns it."""
    affine = np.zeros((4, 4))  # (frame, row, column) to mm, in DICOM's axes
    affine[2, 0], affine[1, 1], affine[0, 2] = SPACING[2], SPACING[1], SPACING[0]
    affine[:, 3] = *ORIGIN, 1
    upright = hd.Volume(truth(), affine, "PATIENT", frame_of_reference_uid=FRAME_OF_REFERENCE)
    for flips in ([], [0], [1, 2], [0, 1, 2]):
        turned = upright.flip_spatial(flips) if flips else upright
        turned = turned.permute_spatial_axes(axes)
        path = save_segmentation(segmentation(source(order=ORDER), turned), tmp_path / f"{len(flips)}.dcm")
        np.testing.assert_array_equal(read(path, volume), truth(), err_msg=f"{axes} {flips}")


@pytest.mark.parametrize("packed", [True, False])
def test_one_bit_rle_is_decoded(tmp_path: Path, packed: bool) -> None:
    """Eight pixels in a byte, or a byte a pixel: both are met, and common decoders take neither."""
    mask = truth()[:, :59, :37]  # a frame is no whole number of bytes
    stored = np.ascontiguousarray(pixels()[:, :59, :37])
    volume = open_dicom(save(source(stored), tmp_path / "v.dcm"))
    seg = segmentation(source(stored), mask)
    frames = [seg.get_stored_frame(number + 1) for number in range(3)]  # in an order of highdicom's
    if packed:
        frames = [np.packbits(frame.ravel(), bitorder="little")[None] for frame in frames]
    seg.PixelData = encapsulate(
        [
            RLELosslessEncoder.encode(
                frame, rows=frame.shape[0], columns=frame.shape[1], samples_per_pixel=1,
                bits_allocated=8, bits_stored=8, pixel_representation=0, number_of_frames=1,
                photometric_interpretation="MONOCHROME2", encoding_plugin="pydicom",
            )
            for frame in frames
        ]
    )  # fmt: skip
    seg["PixelData"].VR = "OB"
    seg["PixelData"].is_undefined_length = True
    seg.file_meta.TransferSyntaxUID = uid.RLELossless
    np.testing.assert_array_equal(read(save_segmentation(seg, tmp_path / "seg.dcm"), volume), mask)


def test_other_grids_are_refused_with_both(tmp_path: Path, volume: Volume) -> None:
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = SPACING[2], SPACING[1], SPACING[0]
    affine[:, 3] = *ORIGIN, 1
    cases = {
        "half a frame": affine.copy(),
        "wider": affine.copy(),
        "beyond": affine.copy(),
        "oblique": affine.copy(),
    }
    cases["half a frame"][2, 3] += 0.5 * SPACING[2]
    cases["wider"][0, 2] *= 1.05
    cases["beyond"][2, 3] += 2 * SPACING[2]  # its last frame lies outside
    turn = np.deg2rad(10)
    cases["oblique"][:2, 1:3] = (
        np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ affine[:2, 1:3]
    )
    for name, matrix in cases.items():
        moved = hd.Volume(truth(), matrix, "PATIENT", frame_of_reference_uid=FRAME_OF_REFERENCE)
        path = save_segmentation(segmentation(source(order=ORDER), moved), tmp_path / "seg.dcm")
        with pytest.raises(UnusableError) as caught:
            read(path, volume)
        assert "the mask's grid is 40 × 60 × 3 voxels" in caught.value.reason, name
        assert "the volume's 40 × 60 × 4 voxels of 0.5 × 0.25 × 1.5 mm from (-10, 20, 30)" in caught.value.reason
    small = hd.Volume(truth()[:, 1:], affine, "PATIENT", frame_of_reference_uid=FRAME_OF_REFERENCE)
    path = save_segmentation(segmentation(source(order=ORDER), small), tmp_path / "seg.dcm")
    with pytest.raises(UnusableError, match="the mask's grid is 40 × 59 × 3 voxels"):
        read(path, volume)


def test_another_frame_of_reference_is_refused(tmp_path: Path, volume: Volume) -> None:
    other = source(order=ORDER, FrameOfReferenceUID="1.2.826.0.1.3680043.8.498.78")
    path = save_segmentation(segmentation(other, truth()[ORDER]), tmp_path / "seg.dcm")
    with pytest.raises(UnusableError, match="lies in another frame of reference than the volume") as caught:
        read(path, volume)
    assert caught.value.reason.count("40 × 60 ×") == 2
    assert "1.2.826" not in caught.value.reason


def test_a_volume_without_geometry_takes_no_segmentation(tmp_path: Path) -> None:
    plain = source(order=ORDER)
    path = save_segmentation(segmentation(plain, truth()[ORDER]), tmp_path / "seg.dcm")
    plain.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0, 0]
    with pytest.raises(UnusableError, match="the volume has no geometry"):
        read(path, open_dicom(save(plain, tmp_path / "v.dcm")))


def test_broken_segmentations_are_refused(tmp_path: Path, volume: Volume) -> None:
    path = save_segmentation(segmentation(source(order=ORDER), truth()[ORDER], "FRACTIONAL"), tmp_path / "seg.dcm")
    whole = path.read_bytes()
    for content in (b"", b"no", whole[: len(whole) // 2], whole[: -ROWS * COLUMNS]):
        path.write_bytes(content)
        with pytest.raises(UnusableError, match=r"not a DICOM file|cannot be read as a DICOM segmentation"):
            read(path, volume)
    positions = segmentation(source(order=ORDER), truth()[ORDER])
    del positions.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence
    with pytest.raises(UnusableError):
        read(save_segmentation(positions, path), volume)


def test_a_segmentation_says_what_it_references(tmp_path: Path) -> None:
    plain = source()
    path = save_segmentation(segmentation(plain, truth()), tmp_path / "seg.dcm")
    assert is_segmentation(path)
    assert read_references(path).series == {plain.SeriesInstanceUID}
    assert read_references(path).instances == {plain.SOPInstanceUID}
    labels = save_segmentation(segmentation(plain, truth(), "LABELMAP"), tmp_path / "labels.dcm")
    assert is_segmentation(labels)
    assert not is_segmentation(save(plain, tmp_path / "v.dcm"))
    (tmp_path / "notes.txt").write_text("no")
    assert not is_segmentation(tmp_path / "notes.txt")
