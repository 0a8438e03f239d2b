"""Masks whose shape is known: discs, boxes, ellipses, several lesions; and the crops round them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pig_monai.features.crops import largest_lesion, lesion_crops, lesion_window
from pig_monai.features.pixels import pixel_features
from pig_monai.features.shape import STATISTICS, mask_statistics, measure_shape, shape_features
from pig_monai.features.space import LESION, MASK, SLICE, FeatureSpace, extract_all, join, within
from pig_monai.mask_features import measure_mask

W, H = 96, 64
X, Y = np.mgrid[:W, :H] + 0.5
BREAST = np.where((X / 80) ** 2 + ((Y - 32) / 30) ** 2 < 1, 0.3 + 0.01 * (X % 3), -1.0).astype(np.float32)


def ellipse(cx: float, cy: float, a: float, b: float) -> np.ndarray:
    mask: np.ndarray = ((X - cx) / a) ** 2 + ((Y - cy) / b) ** 2 < 1
    return mask


def test_an_ellipse_has_its_eccentricity_place_and_area():
    found = measure_shape(ellipse(40, 24, 20, 12))
    assert found["eccentricity"] == pytest.approx(math.sqrt(1 - (12 / 20) ** 2), abs=0.01)
    assert found["area"] == pytest.approx(math.pi * 240 / (W * H), rel=0.02)
    assert (found["x"], found["y"]) == pytest.approx((40 / W, 24 / H), abs=1e-3)
    assert found["solidity"] > 0.96
    assert found["components"] == 1


def test_a_cross_is_not_solid_and_a_box_is():
    cross = np.zeros((W, H), bool)
    cross[20:50, 30:40] = cross[30:40, 20:50] = True
    # its hull is the box of 30 x 30 without four triangles of legs 10
    assert measure_shape(cross)["solidity"] == pytest.approx(500 / 700, abs=0.03)
    assert measure_shape(cross)["eccentricity"] == pytest.approx(0, abs=1e-6)
    box = np.zeros((W, H), bool)
    box[5:9, 5:9] = True
    assert measure_shape(box)["solidity"] == 1


def test_of_several_lesions_the_shape_is_the_largest_ones():
    mask = ellipse(40, 24, 20, 12)
    alone = measure_shape(mask)
    mask[80, 5:20] = True
    mask[81, 20] = True  # touches by a corner
    found = measure_shape(mask)
    assert found["components"] == 2
    assert (found["eccentricity"], found["solidity"]) == (alone["eccentricity"], alone["solidity"])
    assert found["area"] == pytest.approx(alone["area"] + 16 / (W * H))
    assert largest_lesion(mask).sum() == mask.sum() - 16
    with pytest.raises(ValueError, match="empty"):
        measure_shape(np.zeros((W, H), bool))


def test_statistics_agree_with_those_that_reject_candidates():
    mask = ellipse(70, 32, 16, 9)  # reaches out of the breast
    found = mask_statistics(BREAST[None], mask[None])
    reference = measure_mask(mask, BREAST)
    assert list(found) == list(STATISTICS)
    assert found["area"][0] == reference.area
    assert found["components"][0] == reference.components
    assert found["inside_breast"][0] == reference.inside_breast < 1


def test_shape_features_have_the_diameter_for_the_area():
    masks = np.stack([ellipse(40, 24, 10, 10), ellipse(40, 24, 20, 20)])
    features = shape_features(masks)
    assert features.shape == (2, 6)
    assert features[1, 0] / features[0, 0] == pytest.approx(2, rel=0.01)
    assert features[0, 0] == pytest.approx(20 / math.sqrt(W * H), rel=0.01)
    np.testing.assert_array_equal(features[1, 1:], list(measure_shape(masks[1]).values())[1:])


def test_a_pixel_is_a_lesion():
    mask = np.zeros((W, H), bool)
    mask[3, 4] = True
    assert np.isfinite(shape_features(mask[None])).all()
    assert lesion_window(mask) == (slice(0, 8), slice(0, 8))


# --- crops ------------------------------------------------------------------------------------------------------


def test_a_window_is_twice_the_largest_lesion_and_centred_on_it():
    mask = np.zeros((W, H), bool)
    mask[40:50, 30:36] = True
    mask[5:8, 5] = True
    assert lesion_window(mask) == (slice(35, 55), slice(23, 43))


@pytest.mark.parametrize("corner", [(0, 0), (W - 10, 0), (0, H - 6), (W - 10, H - 6)])
def test_a_window_stays_inside_the_slice(corner):
    mask = np.zeros((W, H), bool)
    mask[corner[0] : corner[0] + 10, corner[1] : corner[1] + 6] = True
    x, y = lesion_window(mask)
    assert x.stop - x.start == y.stop - y.start == 20
    assert min(x.start, y.start) >= 0
    assert x.stop <= W
    assert y.stop <= H
    assert mask[x, y].sum() == 60


def test_a_window_is_never_larger_than_the_slice():
    mask = np.ones((W, H), bool)
    assert lesion_window(mask) == (slice(16, 80), slice(0, 64))


def test_crops_show_what_is_in_the_window_at_one_size():
    mask = np.zeros((W, H), bool)
    mask[40:56, 20:36] = True  # window 32 pixels: [32, 64) x [12, 44)
    image = (X / W - Y / H).astype(np.float32)
    crops = lesion_crops(np.stack([image, -image]), np.stack([mask, mask]), size=16)
    averaged = image[32:64, 12:44].reshape(16, 2, 16, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(crops, [averaged, -averaged], atol=1e-6)


# --- pixels and spaces ------------------------------------------------------------------------------------------


def test_pixels_are_averages_of_areas():
    image = np.random.default_rng(0).uniform(-1, 1, (2, 128, 128)).astype(np.float32)
    found = pixel_features(image)
    np.testing.assert_allclose(found, image.reshape(2, 64, 2, 64, 2).mean(axis=(2, 4)).reshape(2, -1), atol=1e-6)
    assert pixel_features(image[:, :16, :16]).shape == (2, 256)  # small ones stay as they are


def test_spaces_get_the_part_that_they_look_at_and_batches_join():
    def mean(shown: np.ndarray) -> np.ndarray:
        return shown.mean(axis=(1, 2))[:, None]

    space = FeatureSpace("mean", "mean", mean, (SLICE, LESION, MASK))
    slices = np.stack([BREAST, BREAST, 0.5 * BREAST])
    masks = np.stack([ellipse(40, 24, 10, 10), ellipse(30, 30, 5, 8), ellipse(50, 40, 8, 4)])
    whole = extract_all([space], slices, masks)
    assert set(whole) == {("mean", SLICE), ("mean", LESION), ("mean", MASK)}
    np.testing.assert_allclose(whole["mean", SLICE], mean(slices))
    np.testing.assert_allclose(whole["mean", LESION], mean(lesion_crops(slices, masks)))
    np.testing.assert_allclose(whole["mean", MASK], mean(masks))
    parts = [extract_all([space], slices[part], masks[part]) for part in (slice(0, 2), slice(2, 3))]
    np.testing.assert_array_equal(join(parts)["mean", LESION], whole["mean", LESION])


def test_slices_without_masks_are_described_whole_and_alike():
    shape = FeatureSpace("shape", "shape", lambda masks: masks.sum(axis=1), (MASK,))
    both = FeatureSpace("mean", "mean", lambda shown: shown.mean(axis=2), (SLICE, LESION))
    whole = within([shape, both], (SLICE,))
    assert [(space.name, space.regions) for space in whole] == [("mean", (SLICE,))]
    slices, masks = np.stack([BREAST, 0.5 * BREAST]), np.stack([ellipse(40, 24, 10, 10)] * 2)
    found = extract_all(whole, slices, None)
    assert set(found) == {("mean", SLICE)}
    np.testing.assert_array_equal(found["mean", SLICE], extract_all([shape, both], slices, masks)["mean", SLICE])
