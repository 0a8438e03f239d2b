from __future__ import annotations

from pathlib import Path, PurePosixPath

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (the name its manual gives it)
from PIL import Image

from pig_monai.data.cases import Found
from pig_monai.data.find_masks import find_masks
from pig_monai.data.keys import CaseKey
from pig_monai.data.masks import RememberedMasks, match_masks, open_masks
from pig_monai.data.slice_pictures import SlicePictures
from pig_monai.data.volume import Grid, UnusableError, Volume
from tests.data.dbt_objects import COLUMNS, FRAMES, ORIGIN, ROWS, SPACING, affine, lesion, save_mask
from tests.data.helpers import header, volumes

GRID = Grid((COLUMNS, ROWS, FRAMES), affine())


def match(images: list[str], masks: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    found, unmatched = match_masks([PurePosixPath(i) for i in images], [PurePosixPath(m) for m in masks])
    return {str(i): [str(m) for m in own] for i, own in found.items()}, [str(m) for m in unmatched]


@pytest.mark.parametrize(
    ("images", "masks", "expected", "left"),
    [
        (["a.png"], ["a.png"], {"a.png": ["a.png"]}, []),
        (["a.png"], ["a.nii.gz"], {"a.png": ["a.nii.gz"]}, []),
        (["a.nii.gz"], ["a_mask.png"], {"a.nii.gz": ["a_mask.png"]}, []),
        (["a.png"], ["a-1.png", "a.2.png", "a_0.png"], {"a.png": ["a-1.png", "a.2.png", "a_0.png"]}, []),
        (["a.png"], ["ab.png", "b.png", "A.png"], {}, ["A.png", "ab.png", "b.png"]),
        (["a.png", "a_1.png"], ["a_1_x.png", "a_2.png"], {"a_1.png": ["a_1_x.png"], "a.png": ["a_2.png"]}, []),
        (["p/c.png", "q/c.png"], ["p/c.png", "q/c_0.png"], {"p/c.png": ["p/c.png"], "q/c.png": ["q/c_0.png"]}, []),
        (["p/cc.png", "q/cc.png"], ["cc.png"], {}, ["cc.png"]),
        (["p/a.png"], ["a_mask.tif"], {"p/a.png": ["a_mask.tif"]}, []),
        (["v1.2.png"], ["v1.2_m.png"], {"v1.2.png": ["v1.2_m.png"]}, []),
    ],
)  # fmt: skip
def test_masks_find_their_image(images: list, masks: list, expected: dict, left: list) -> None:
    assert match(images, masks) == (expected, left)


def test_remembered_masks_are_read_once() -> None:
    rng = np.random.default_rng(0)
    masks = [rng.random((30, 50)) > share for share in (0.5, 0.99, 2, -1)]  # ragged, sparse, empty, full
    masks[1][:7] = masks[1][:, :11] = False

    class Source:
        read: list[int]

        def mask(self, index: int) -> np.ndarray:
            self.read.append(index)
            return masks[index]

    source = Source()
    source.read = []
    remembered = RememberedMasks(source, (30, 50))
    for _ in range(3):
        for index, mask in enumerate(masks):
            found = remembered.mask(index)
            assert found.dtype == bool
            np.testing.assert_array_equal(found, mask)
    assert source.read == [0, 1, 2, 3]


def test_masks_find_their_volume_by_stem_or_series() -> None:
    series = {
        PurePosixPath("p/1.dcm"): "1.2.3",
        PurePosixPath("q/1.dcm"): "1.2.4",
        PurePosixPath("q/IM0"): "1.2.5",
    }
    headers = {file: header(series=uid) for file, uid in series.items()}
    masks = [PurePosixPath(m) for m in ("1.2.3.nii.gz", "1.nii.gz", "q/1.nii", "IM0.nii.gz", "zzz.nii.gz")]
    found = Found()
    matched = find_masks(Path("m"), masks, volumes(headers), [], CaseKey(b"k"), found)
    assert {str(v): [str(m) for m in own.files] for v, own in matched.items()} == {
        "p/1.dcm": ["m/1.2.3.nii.gz"],
        "q/1.dcm": ["m/q/1.nii"],
        "q/IM0": ["m/IM0.nii.gz"],
    }
    assert [str(row.source) for row in found.skipped] == ["m/1.nii.gz", "m/zzz.nii.gz"]


def stack(path: Path, grid: Grid = GRID) -> np.ndarray:
    """The mask as (frames, rows, columns)."""
    source = open_masks([path], grid, volumetric=True)
    return np.stack([source.mask(index).T for index in range(grid.size[2])])


def test_pictures_find_their_volume_and_slice() -> None:
    headers = {
        PurePosixPath(file): header(series=uid)
        for file, uid in {"a.dcm": "1.2.3", "a_1.dcm": "1.2.4", "p/c.dcm": "1.2.5", "q/c.dcm": "1.2.6"}.items()
    }
    fitting = {
        "a_31.png": ("a.dcm", 31),
        "a_1_7.png": ("a_1.dcm", 7),
        "a_1.png": ("a_1.dcm", None),  # the very stem of a volume
        "1.2.3_0.tif": ("a.dcm", 0),
        "a/003.png": ("a.dcm", 3),
        "a/slice_4.jpg": ("a.dcm", 4),
        "a/a_5.png": ("a.dcm", 5),
        "x/1.2.5/mass2.png": ("p/c.dcm", 2),
        "p/c/8.png": ("p/c.dcm", 8),
        "q/c_9.png": ("q/c.dcm", 9),
    }
    unfit = ["a-3.png", "b_3.png", "c_3.png", "a/mask.png", "a_1/b.png", "p/c/q_.png", "a/a_1_3.png"]
    found = Found()
    masks = [PurePosixPath(m) for m in (*fitting, *unfit)]
    matched = find_masks(Path("m"), masks, volumes(headers), [], CaseKey(b"k"), found)
    pictures = {path: (str(v), n) for v, own in matched.items() for n, path in own.pictures}
    pictures |= {path: (str(v), None) for v, own in matched.items() for path in own.files}
    assert pictures == {Path("m") / name: value for name, value in fitting.items()}
    assert [str(row.source) for row in found.skipped] == [f"m/{name}" for name in unfit]


def numbered(tmp_path: Path, numbers: list[int], frames: int = FRAMES, first: int | None = None) -> np.ndarray:
    """Write picture i with i pixels set, read them: (pixels set on each slice)."""
    pictures = []
    for number in numbers:
        pixels = np.zeros((ROWS, COLUMNS), np.uint8)
        pixels.flat[: number + 1] = 255
        pictures.append((number, tmp_path / f"{number}.png"))
        Image.fromarray(pixels).save(pictures[-1][1])
    volume = Volume(Grid((COLUMNS, ROWS, frames)), None, lambda index: np.zeros(0), stored=(2, 0, 3, 1)[:frames])
    masks = SlicePictures(pictures, volume, first)
    return np.array([masks.mask(index).sum() for index in range(frames)])


def test_pictures_count_stored_slices_from_0_or_1(tmp_path: Path) -> None:
    # the stored slices 0, 1, 2, 3 are the volume's slices 1, 3, 0, 2
    np.testing.assert_array_equal(numbered(tmp_path, [0, 1, 2, 3]), [3, 1, 4, 2])
    np.testing.assert_array_equal(numbered(tmp_path, [1, 2, 3, 4]), [4, 2, 5, 3])
    np.testing.assert_array_equal(numbered(tmp_path, [0, 2]), [3, 1, 0, 0])
    np.testing.assert_array_equal(numbered(tmp_path, [4]), [0, 0, 5, 0])
    np.testing.assert_array_equal(numbered(tmp_path, [2], first=0), [3, 0, 0, 0])
    np.testing.assert_array_equal(numbered(tmp_path, [2], first=1), [0, 0, 0, 3])
    for numbers, first, expected in [
        ([2, 3], None, "may count its 4 slices from 0 or from 1"),
        ([0, 4], None, "the numbers of its pictures do not fit its 4 slices"),
        ([0], 1, "do not fit its 4 slices, counted from 1"),
        ([4], 0, "counted from 0"),
    ]:
        with pytest.raises(UnusableError, match=expected):
            numbered(tmp_path, numbers, first=first)


def test_pictures_of_another_size_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((ROWS, COLUMNS + 1), np.uint8)).save(tmp_path / "0.png")
    masks = SlicePictures([(0, tmp_path / "0.png")], Volume(GRID, None, lambda index: np.zeros(0)), None)
    with pytest.raises(UnusableError, match=r"grid is 41 × 60 × 1 voxels .* the image's 40 × 60 × 1"):
        masks.mask(0)
    with pytest.raises(UnusableError, match="names none of the volume's 4 slices"):
        open_masks([tmp_path / "0.png"], GRID, volumetric=True)


def test_a_mask_is_aligned_by_geometry_not_by_index(tmp_path: Path) -> None:
    truth = lesion([1, 2])
    image = nib.Nifti1Image(truth.transpose(2, 1, 0), affine())
    for name, other in {
        "same": image,
        "flipped": image.as_reoriented(np.array([[0, -1], [1, 1], [2, -1]])),
        "permuted": image.as_reoriented(np.array([[2, 1], [0, -1], [1, 1]])),
        "canonical": nib.as_closest_canonical(image),
        "four axes": nib.Nifti1Image(np.asarray(image.dataobj)[..., None], affine()),
        "probability": nib.Nifti1Image(np.asarray(image.dataobj) * np.float32(0.6) + np.float32(0.2), affine()),
    }.items():
        nib.save(other, tmp_path / f"{name}.nii.gz")
        np.testing.assert_array_equal(stack(tmp_path / f"{name}.nii.gz"), truth, err_msg=name)


def test_a_mask_on_another_grid_is_refused_with_both_grids(tmp_path: Path) -> None:
    moved = affine()
    moved[2, 3] += 1.5  # one frame
    wider = affine()
    wider[0, 0] *= 1.05  # two pixels at the far side
    small = lesion([1], (FRAMES - 1, ROWS, COLUMNS))
    for name, mask, matrix in [
        ("moved", lesion([1]), moved),
        ("wider", lesion([1]), wider),
        ("small", small, affine()),
    ]:
        path = save_mask(mask, tmp_path / f"{name}.nii.gz", matrix)
        with pytest.raises(UnusableError) as caught:
            stack(path)
        assert "40 × 60 × 4 voxels of 0.5 × 0.25 × 1.5 mm from (-10, 20, 30)" in caught.value.reason
        if name == "small":
            assert "the mask's grid is 40 × 60 × 3 voxels of 0.5 × 0.25 × 1.5 mm" in caught.value.reason
    np.testing.assert_array_equal(
        stack(tmp_path / "moved.nii.gz", Grid((COLUMNS, ROWS, FRAMES))), lesion([1])
    )  # without geometry the shape decides


def test_broken_masks_are_refused(tmp_path: Path) -> None:
    path = save_mask(lesion([1]), tmp_path / "m.nii.gz")
    whole = path.read_bytes()
    for content in (b"", b"not a mask", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(UnusableError, match="cannot be read as NIfTI"):
            stack(path)
    path = save_nrrd(lesion([1]), tmp_path / "m.nrrd")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UnusableError, match="cannot be read as NRRD"):
        stack(path)


def save_nrrd(mask: np.ndarray, path: Path, reorient: str = "LPS") -> Path:
    """Save a mask (frames, rows, columns[, layers]) on the volume's grid; ITK turns it as ``reorient`` says."""
    image = sitk.GetImageFromArray(mask, isVector=mask.ndim == 4)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    sitk.WriteImage(sitk.DICOMOrient(image, reorient), str(path), useCompression=True)
    return path


def test_nrrd_is_aligned_by_geometry(tmp_path: Path) -> None:
    truth = lesion([1, 2])
    truth[2, 40:44, 30:33] = 1
    for reorient in ("LPS", "RAS", "SAL", "PIR"):
        path = save_nrrd(truth, tmp_path / f"{reorient}.nrrd", reorient)
        np.testing.assert_array_equal(stack(path), truth, err_msg=reorient)
    layers = np.stack([truth, np.roll(truth, 5, axis=1)], axis=-1)  # as 3D Slicer keeps segments that overlap
    np.testing.assert_array_equal(stack(save_nrrd(layers, tmp_path / "v.seg.nrrd")), layers.max(axis=-1))
    with pytest.raises(UnusableError, match=r"the mask's grid is 40 × 59 × 4 .* the volume's 40 × 60 × 4"):
        stack(save_nrrd(truth[:, 1:], tmp_path / "small.nrrd"))


def square(value: int, dtype: type = np.uint8) -> np.ndarray:
    mask = np.zeros((ROWS, COLUMNS), dtype)
    mask[5:9, 20:30] = value
    return mask


def flat(paths: list[Path]) -> np.ndarray:
    return open_masks(paths, Grid((COLUMNS, ROWS, 1)), volumetric=False).mask(0).T


def test_image_masks_are_thresholded_as_promised(tmp_path: Path) -> None:
    rgb = np.zeros((ROWS, COLUMNS, 3), np.uint8)
    rgb[5:9, 20:30] = 255, 200, 0  # luminance 194
    rgb[20:30] = 120, 120, 120  # below the threshold
    nifti = tmp_path / "mask.nii.gz"
    nib.save(nib.Nifti1Image(square(3).T[..., None], np.eye(4)), nifti)
    written = [nifti]
    for name, picture in {
        "one": Image.fromarray(square(1)),
        "white": Image.fromarray(square(255)),
        "bilevel": Image.fromarray(square(255)).convert("1"),
        "grey": Image.fromarray(square(128) + np.uint8(127)),
        "colour": Image.fromarray(rgb),
        "sixteen": Image.fromarray(square(40000, np.uint16)),
    }.items():
        written.append(tmp_path / f"{name}.png")
        picture.save(written[-1])
    Image.fromarray(np.kron(square(255), np.ones((1, 1), np.uint8))).save(tmp_path / "smeared.tif")
    for path in [*written, tmp_path / "smeared.tif"]:
        np.testing.assert_array_equal(flat([path]), square(1) > 0, err_msg=path.name)


def test_several_masks_are_merged(tmp_path: Path) -> None:
    other = np.roll(square(255), 20, axis=0)
    Image.fromarray(square(255)).save(tmp_path / "a.png")
    Image.fromarray(other).save(tmp_path / "b.png")
    np.testing.assert_array_equal(flat([tmp_path / "a.png", tmp_path / "b.png"]), (square(1) + other) > 0)


def test_an_image_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    Image.fromarray(square(255)[:-1]).save(tmp_path / "a.png")
    with pytest.raises(UnusableError, match=r"the mask's grid is 40 × 59 × 1 voxels .*the image's 40 × 60 × 1"):
        flat([tmp_path / "a.png"])
