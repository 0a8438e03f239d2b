from __future__ import annotations

import subprocess
import sys

import numpy as np
import torch
from monai.transforms import ScaleIntensityRange

from pig_monai.data.breast import chest_wall_side, find_breast
from pig_monai.data.prepare_slice import RawSlice, breast_percentiles, prepare_slice, scale
from pig_monai.data.volume import DisplayCurve

PERCENTILE = {"kind": "percentile", "low": 0.5, "high": 99.5, "inside_breast": True}


def settings(**changes: object) -> dict:
    plain = {"size": 64, "aspect": "pad", "crop": True, "chest_wall": "left", "intensity": PERCENTILE}
    return plain | changes


def half_disc(width: int = 60, height: int = 80, radius: int = 30, left: int = 5) -> np.ndarray:
    """(W, H): a breast of value 1000 + 10 x whose straight side is at column ``left``; background 0."""
    x, y = np.mgrid[:width, :height]
    inside = (x >= left) & ((x - left) ** 2 + (y - height / 2) ** 2 < radius**2)
    return np.where(inside, 1000 + 10 * x, 0).astype(np.float32)


def test_the_breast_is_found_whatever_the_bit_depth_and_the_markers() -> None:
    image = half_disc()
    truth = image > 0
    image[50:55, 2:10] = 4000  # a burnt-in marker, brighter than the breast
    np.testing.assert_array_equal(find_breast(image).mask(), truth)
    noisy = np.round(half_disc() / 16) + np.random.default_rng(0).integers(0, 4, image.shape)  # 8 bits, JPEG noise
    np.testing.assert_array_equal(find_breast(noisy).mask(), truth)
    assert not find_breast(np.zeros((9, 9))).mask().any()


def test_chest_wall_goes_left_and_the_mask_with_it() -> None:
    image = half_disc()
    label = np.zeros(image.shape, bool)
    label[20, 30] = True
    left, right = RawSlice(image, label), RawSlice(image[::-1], label[::-1])
    one, other = (prepare_slice(raw, settings(crop=False, size=80)) for raw in (left, right))
    assert (one.chest_wall, other.chest_wall) == ("left", "right")
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(np.argwhere(other.label), [[20, 30]])
    kept = prepare_slice(right, settings(crop=False, size=80, chest_wall="keep"))
    np.testing.assert_array_equal(np.argwhere(kept.label), [[60 - 1 - 20, 30]])
    assert (one.geometry.mirrored, other.geometry.mirrored, kept.geometry.mirrored) == (False, True, False)
    known = prepare_slice(RawSlice(image, label, chest_wall="right"), settings(crop=False, size=80))
    assert (known.chest_wall, known.geometry.mirrored) == ("right", True)  # a volume knows better than its slices


def test_a_fatty_breast_s_chest_wall_is_found() -> None:
    """All that shows of it is the skin, some tissue behind the nipple, and a vessel."""
    image = half_disc(left=5, radius=30)
    x, y = np.mgrid[:60, :80]
    image[((x - 5) ** 2 + (y - 40) ** 2 < 27**2) & (x < 25) & (y != 40)] = 0
    for turned, side in ((image, "left"), (image[::-1], "right")):
        assert chest_wall_side(find_breast(turned).mask()) == side


def test_crop_is_the_breast_s_bounding_box() -> None:
    image = half_disc(left=5, radius=30)  # columns 5 … 34, rows 11 … 69 of 80
    done = prepare_slice(RawSlice(image), settings(size=59))
    assert done.geometry.crop == (5, 11, 35, 70)
    box = image[5:35, 11:70]
    inside = box[box > 0]
    low, high = np.percentile(inside, [0.5, 99.5])
    expected = np.clip((box - low) / (high - low) * 2 - 1, -1, 1)
    np.testing.assert_allclose(done.image[:30], expected, atol=1e-5)
    assert (done.image[30:] == -1).all()  # padding lies at the right
    assert done.label is None


def test_values_are_clipped_before_they_are_averaged() -> None:
    """What is beyond the window is no brighter than its end, also in a pixel that holds other values."""
    image = half_disc() + 0.0
    image[10, 30] = 1e6
    raw = RawSlice(image, window=(1000.0, 1400.0))
    done = prepare_slice(raw, settings(size=40, crop=False, intensity={"kind": "window"}))
    expected = np.clip((image - 1200) / 200, -1, 1).reshape(30, 2, 40, 2).mean((1, 3))
    np.testing.assert_allclose(done.image[:30], expected, atol=1e-5)
    assert done.image.min() >= -1
    assert done.image.max() <= 1


def test_the_geometry_tells_the_spacing_of_the_result() -> None:
    raw = RawSlice(half_disc(width=60, height=80))
    padded = prepare_slice(raw, settings(size=40, crop=False)).geometry
    assert padded.spacing((0.3, 0.3)) == [0.6, 0.6]
    stretched = prepare_slice(raw, settings(size=40, crop=False, aspect="stretch")).geometry
    assert stretched.spacing((0.3, 0.3)) == [0.45, 0.6]


def test_a_window_is_scaled_linearly_and_clipped() -> None:
    image = half_disc()
    plain = settings(size=80, crop=False, intensity={"kind": "window"})
    done = prepare_slice(RawSlice(image, window=(1100.0, 1300.0)), plain)
    np.testing.assert_allclose(done.image[:60], np.clip((image - 1200) / 100, -1, 1), atol=1e-5)
    curve = DisplayCurve(lambda values: np.sqrt(values / 1600))
    done = prepare_slice(RawSlice(image, window=curve), plain)
    np.testing.assert_allclose(done.image[:60], 2 * np.sqrt(image / 1600) - 1, atol=1e-5)


def test_scaling_is_monai_s() -> None:
    """NaN apart, which MONAI leaves."""
    image = half_disc()
    for low, high in ((1100.0, 1300.0), (900.5, 901.0)):
        expected = np.asarray(ScaleIntensityRange(low, high, -1, 1, clip=True)(torch.as_tensor(image)))
        missing = image.copy()
        missing[3] = np.nan
        scaled = scale(missing, low, high)
        np.testing.assert_array_equal(np.delete(missing, 3, axis=0), np.delete(image, 3, axis=0))
        assert (scaled[3] == -1).all()
        assert scaled.dtype == np.float32
        np.testing.assert_allclose(np.delete(scaled, 3, axis=0), np.delete(expected, 3, axis=0), atol=1e-5)


def test_limits_are_never_one_value() -> None:
    breast = np.where(half_disc() > 0, 7.0, 2.0).astype(np.float32)  # to be kept apart from the background
    speck = np.full((300, 400), 2, np.float32)
    speck[1, 1] = 7
    assert find_breast(speck).box is None
    for image in (breast, speck):
        low, high = breast_percentiles(image, find_breast(image), PERCENTILE)
        assert (low, high) == (2, 7)
        np.testing.assert_allclose(scale(image, low, high), np.where(image == 7, 1, -1))
    assert (scale(breast, 7, 7) == -1).all()


def test_preparing_needs_neither_torch_nor_monai() -> None:
    """They take longer to import than a volume takes to prepare, in each process."""
    code = "import pig_monai.data.commands, pig_monai.data.prepare, sys; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert {"numpy", "pydicom", "pig_monai.data.prepare"} < imported
    assert not imported & {"torch", "monai", "highdicom", "SimpleITK", "skimage"}
