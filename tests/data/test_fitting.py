from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import label
from torch.nn.functional import interpolate

from pig_monai.data.fitting import fit_mask, fit_slice, resize_mask, resize_slice


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
        found = resize_mask(mask, size)
        assert not (covered & ~found).any()
        assert (found & ~covered).sum() <= label(mask, np.ones((3, 3)))[1]


@pytest.mark.parametrize("size", [(64, 48), (63, 41), (30, 70), (1, 1), (97, 83)])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_slice_that_shrinks_is_averaged_over_exact_areas(size: tuple[int, int], transposed: bool) -> None:
    """By another way, as for masks; frames come in either order of the memory."""
    image = np.random.default_rng(0).uniform(-1, 1, (97, 83)).astype(np.float32)
    split = image.repeat(size[0], axis=0).repeat(size[1], axis=1).reshape(size[0], 97, size[1], 83)
    stored = np.asfortranarray(image) if transposed else image
    np.testing.assert_allclose(resize_slice(stored, size), split.mean(axis=(1, 3)), atol=1e-5)


@pytest.mark.parametrize("size", [(97, 120), (40, 83), (64, 64)])
def test_a_slice_that_grows_is_pytorch_s_bilinear(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).uniform(-1, 1, (40, 64)).astype(np.float32)
    expected = interpolate(torch.from_numpy(image)[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    np.testing.assert_allclose(resize_slice(image, size), expected, atol=2e-5)


def test_an_axis_that_shrinks_is_averaged_even_if_the_other_grows() -> None:
    stripes = np.tile(np.array([-1.0, 1.0], np.float32), 64)[:, None].repeat(16, axis=1)  # (128, 16)
    np.testing.assert_allclose(fit_slice(stripes, 32, "stretch"), 0, atol=1e-6)


def test_what_is_padded_is_background() -> None:
    image = np.random.default_rng(0).uniform(-1, 1, (64, 48)).astype(np.float32)
    done = fit_slice(image, 32)
    np.testing.assert_allclose(done[:, :24], image.reshape(32, 2, 24, 2).mean((1, 3)), atol=1e-6)
    assert (done[:, 24:] == -1).all()
    assert not fit_mask(image > -2, 32)[:, 24:].any()


@pytest.mark.parametrize("size", [64, 150, 512, 700])
def test_a_disc_keeps_its_area_and_place(size: int) -> None:
    x, y = np.mgrid[:512, :512]
    disc = (x - 300) ** 2 + (y - 180) ** 2 < 60**2
    done = fit_mask(disc, size)
    scale = size / 512
    assert done.dtype == bool
    assert done.sum() == pytest.approx(np.pi * (60 * scale) ** 2, rel=0.03)
    centre = np.argwhere(done).mean(axis=0) + 0.5
    np.testing.assert_allclose(centre, np.array([300.5, 180.5]) * scale, atol=0.25)


@pytest.mark.parametrize("shape", [(512, 400), (100, 30)])
def test_small_lesions_survive_where_they_are(shape: tuple[int, int]) -> None:
    """Single pixels vanish when 8 × 8 pixels become one, unless something is done about it."""
    mask = np.zeros(shape, bool)
    places = [(3, 5), (shape[0] - 1, shape[1] - 1), (shape[0] // 2, 9)]
    for place in places:
        mask[place] = True
    done = fit_mask(mask, 64)
    scale = 64 / max(shape)
    width, height = (round(n * scale) for n in shape)
    expected = sorted((int((x + 0.5) * width / shape[0]), int((y + 0.5) * height / shape[1])) for x, y in places)
    assert sorted(map(tuple, np.argwhere(done).tolist())) == expected


def test_what_has_the_right_size_is_left_alone() -> None:
    image = np.random.default_rng(0).uniform(-1, 1, (32, 32)).astype(np.float32)
    np.testing.assert_array_equal(fit_slice(image, 32), image)
    np.testing.assert_array_equal(fit_mask(image > 0, 32), image > 0)
