from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import ScaleIntensityRange
from scipy.ndimage import label

from pig_monai.data import transforms as t
from pig_monai.data.breast import FindBreastd, breast_mask, chest_wall_side
from pig_monai.data.fitting import resize_mask
from pig_monai.data.folder import write_label, write_slice

PERCENTILE = {"kind": "percentile", "low": 0.5, "high": 99.5, "inside_breast": True}


def settings(**changes: object) -> dict:
    plain = {"size": 64, "aspect": "pad", "crop": True, "chest_wall": "left", "intensity": PERCENTILE}
    return plain | changes


def half_disc(width: int = 60, height: int = 80, radius: int = 30, left: int = 5) -> np.ndarray:
    """(W, H): a breast of value 1000 + 10 x whose straight side is at column ``left``; background 0."""
    x, y = np.mgrid[:width, :height]
    inside = (x >= left) & ((x - left) ** 2 + (y - height / 2) ** 2 < radius**2)
    return np.where(inside, 1000 + 10 * x, 0).astype(np.float32)


def as_slice(image: np.ndarray, spacing: float = 0.1) -> MetaTensor:
    return MetaTensor(
        image[None], affine=torch.diag(torch.tensor([-spacing, -spacing, 1, 1], dtype=torch.float64))
    )


def test_the_breast_is_found_whatever_the_bit_depth_and_the_markers() -> None:
    image = half_disc()
    truth = image > 0
    image[50:55, 2:10] = 4000  # a burnt-in marker, brighter than the breast
    np.testing.assert_array_equal(breast_mask(torch.as_tensor(image[None]))[0], truth)
    noisy = np.round(half_disc() / 16) + np.random.default_rng(0).integers(0, 4, image.shape)  # 8 bits, JPEG noise
    np.testing.assert_array_equal(breast_mask(torch.as_tensor(noisy[None]))[0], truth)
    assert not breast_mask(torch.zeros(1, 9, 9)).any()


def test_chest_wall_goes_left_and_the_mask_with_it() -> None:
    image = half_disc()
    label = np.zeros_like(image)
    label[20, 30] = 1
    right = {"image": as_slice(image[::-1].copy()), "label": as_slice(label[::-1].copy())}
    left = {"image": as_slice(image), "label": as_slice(label)}
    keep = t.prepare_slices(settings(crop=False, size=80))
    one, other = keep(left), keep(right)
    assert (one["chest_wall"], other["chest_wall"]) == ("left", "right")
    np.testing.assert_array_equal(one["image"], other["image"])
    np.testing.assert_array_equal(np.argwhere(np.asarray(other["label"][0])), [[20, 30]])
    kept = t.prepare_slices(settings(crop=False, size=80, chest_wall="keep"))(right)
    np.testing.assert_array_equal(np.argwhere(np.asarray(kept["label"][0])), [[60 - 1 - 20, 30]])


def test_a_fatty_breast_s_chest_wall_is_found() -> None:
    """All that shows of it is the skin, some tissue behind the nipple, and a vessel."""
    image = half_disc(left=5, radius=30)
    x, y = np.mgrid[:60, :80]
    image[((x - 5) ** 2 + (y - 40) ** 2 < 27**2) & (x < 25) & (y != 40)] = 0
    for turned, side in ((image, "left"), (image[::-1].copy(), "right")):
        assert chest_wall_side(breast_mask(torch.as_tensor(turned[None]))) == side


def test_crop_is_the_breast_s_bounding_box() -> None:
    image = half_disc(left=5, radius=30)  # columns 5 … 34, rows 11 … 69 of 80
    done = t.prepare_slices(settings(size=59))({"image": as_slice(image)})["image"]
    box = image[5:35, 11:70]
    inside = box[box > 0]
    low, high = np.percentile(inside, [0.5, 99.5])
    expected = np.clip((box - low) / (high - low) * 2 - 1, -1, 1)
    np.testing.assert_allclose(done[0, :30], expected, atol=1e-5)
    assert (np.asarray(done[0, 30:]) == -1).all()  # padding lies at the right


def test_the_affine_tells_the_spacing_of_the_result() -> None:
    image = half_disc(width=60, height=80)
    padded = t.prepare_slices(settings(size=40, crop=False))({"image": as_slice(image, 0.3)})["image"]
    np.testing.assert_allclose(np.abs(np.diag(padded.affine))[:2], [0.6, 0.6])
    stretched = t.prepare_slices(settings(size=40, crop=False, aspect="stretch"))({"image": as_slice(image, 0.3)})
    np.testing.assert_allclose(np.abs(np.diag(stretched["image"].affine))[:2], [0.45, 0.6])


def test_window_is_scaled_linearly_and_clipped() -> None:
    image = half_disc()
    scaled = t.ScaleWindowd("image")({"image": torch.as_tensor(image[None]), "window": (1100.0, 1300.0)})["image"]
    np.testing.assert_allclose(scaled[0], np.clip((image - 1200) / 100, -1, 1), atol=1e-5)


def test_scaling_is_monai_s() -> None:
    """NaN apart, which MONAI leaves."""
    image = torch.as_tensor(half_disc()[None])
    for low, high in ((1100.0, 1300.0), (900.5, 901.0), (7.0, 7.0)):
        expected = ScaleIntensityRange(low, high, -1, 1, clip=True)(image)
        missing = image.clone()
        missing[0, 3] = torch.nan
        scaled = t.ScaleWindowd("image")({"image": missing, "window": (low, high)})["image"]
        np.testing.assert_array_equal(missing[0, 4:], image[0, 4:])  # what was given stays as it was
        assert (scaled[0, 3] == -1).all()
        np.testing.assert_allclose(np.delete(scaled, 3, axis=1), np.delete(expected, 3, axis=1), atol=1e-5)


@pytest.mark.parametrize("size", [(64, 48), (63, 41), (30, 70), (1, 1)])
def test_a_mask_keeps_the_pixels_that_it_covers_more_than_half_of(size: tuple[int, int]) -> None:
    """The areas by another way: every pixel is split until both grids fit; a region that would vanish stays."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        width, height = rng.integers(70, 120, 2)
        mask = np.zeros((width, height), bool)
        x, y = rng.integers(0, (width, height))
        mask[x : x + 40, y : y + 60] = rng.random(mask[x : x + 40, y : y + 60].shape) < 0.6
        split = mask.repeat(size[0], axis=0).repeat(size[1], axis=1).reshape(size[0], width, size[1], height)
        covered = 2 * split.sum(axis=(1, 3)) > width * height
        found = np.asarray(resize_mask(torch.from_numpy(mask[None]), size)[0]) > 0
        assert not (covered & ~found).any()
        assert (found & ~covered).sum() <= label(mask, np.ones((3, 3)))[1]


def test_a_breast_of_one_value_is_kept_apart_from_the_background() -> None:
    image = np.where(half_disc() > 0, 7.0, 2.0)
    scaled = t.ScaleInsideBreastd("image")(FindBreastd()({"image": torch.as_tensor(image[None])}))["image"]
    np.testing.assert_allclose(scaled[0], np.where(image == 7, 1, -1))


def test_shrinking_averages_areas_exactly() -> None:
    image = np.random.default_rng(0).uniform(-1, 1, (64, 48)).astype(np.float32)
    done = t.FitToSized("image", 32, kind="slice")({"image": torch.as_tensor(image[None])})["image"]
    np.testing.assert_allclose(done[0, :, :24], image.reshape(32, 2, 24, 2).mean((1, 3)), atol=1e-6)
    assert (done[0, :, 24:] == -1).all()


def test_an_axis_that_shrinks_is_averaged_even_if_the_other_grows() -> None:
    stripes = np.tile(np.array([-1.0, 1.0], np.float32), 64)[:, None].repeat(16, axis=1)  # (128, 16)
    done = t.FitToSized("image", 32, "stretch", kind="slice")({"image": torch.as_tensor(stripes[None])})["image"]
    np.testing.assert_allclose(done, 0, atol=1e-6)


@pytest.mark.parametrize("size", [64, 150, 512, 700])
def test_a_disc_keeps_its_area_and_place(size: int) -> None:
    x, y = np.mgrid[:512, :512]
    disc = ((x - 300) ** 2 + (y - 180) ** 2 < 60**2).astype(np.float32)
    done = np.asarray(t.FitToSized("label", size, kind="mask")({"label": torch.as_tensor(disc[None])})["label"][0])
    scale = size / 512
    assert set(np.unique(done)) == {0, 1}
    assert done.sum() == pytest.approx(np.pi * (60 * scale) ** 2, rel=0.03)
    centre = np.argwhere(done).mean(axis=0) + 0.5
    np.testing.assert_allclose(centre, np.array([300.5, 180.5]) * scale, atol=0.25)


@pytest.mark.parametrize("shape", [(512, 400), (100, 30)])
def test_small_lesions_survive_where_they_are(shape: tuple[int, int]) -> None:
    """Single pixels vanish when 8 × 8 pixels become one, unless something is done about it."""
    mask = np.zeros(shape, np.float32)
    places = [(3, 5), (shape[0] - 1, shape[1] - 1), (shape[0] // 2, 9)]
    for place in places:
        mask[place] = 1
    done = t.FitToSized("label", 64, kind="mask")({"label": torch.as_tensor(mask[None])})["label"][0]
    scale = 64 / max(shape)
    width, height = (round(n * scale) for n in shape)
    expected = sorted((int((x + 0.5) * width / shape[0]), int((y + 0.5) * height / shape[1])) for x, y in places)
    assert sorted(map(tuple, np.argwhere(np.asarray(done)).tolist())) == expected


def test_a_slice_of_the_right_size_is_left_alone() -> None:
    image = torch.rand(1, 32, 32) * 2 - 1
    label = (torch.rand(1, 32, 32) > 0.5).float()
    done = t.FitToSized(("image", "label"), 32)({"image": image, "label": label})
    assert torch.equal(done["image"], image)
    assert torch.equal(done["label"], label)


def test_load_slices_reads_what_was_written(tmp_path: Path) -> None:
    image = np.random.default_rng(0).uniform(-1, 1, (64, 64))
    mask = np.zeros((64, 64), bool)
    mask[10:20, 40:44] = True
    write_slice(tmp_path / "image.nii.gz", image, (0.1, 0.1))
    write_label(tmp_path / "label.nii.gz", mask, (0.1, 0.1))
    entry = {"image": str(tmp_path / "image.nii.gz"), "label": str(tmp_path / "label.nii.gz"), "fold": 0}
    whole = t.load_slices(64)(entry)
    assert type(whole["image"]) is torch.Tensor
    assert whole["image"].dtype == whole["label"].dtype == torch.float32
    np.testing.assert_allclose(whole["image"][0], image, atol=2e-5)
    np.testing.assert_array_equal(whole["label"][0], mask)
    half = t.load_slices(32)(entry)
    np.testing.assert_allclose(half["image"][0], image.reshape(32, 2, 32, 2).mean((1, 3)), atol=2e-5)
    np.testing.assert_array_equal(half["label"][0], mask[::2, ::2])
    assert set(half) == {"image", "label"}
    assert set(t.load_slices(32)({"image": entry["image"]})) == {"image"}
