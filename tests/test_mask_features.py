import numpy as np
import pytest

from pig_monai.mask_features import breast_region, measure_mask


def breast() -> np.ndarray:
    """A slice (W, H): chest wall at index 0 of the first axis, the breast a half disc, -1 outside."""
    x, y = np.mgrid[:32, :32]
    return np.where(x**2 + (y - 16) ** 2 < 14**2, 0.2 + 0.01 * (x % 5), -1.0).astype(np.float32)


def test_the_breast_has_no_holes():
    image = breast()
    whole = image > -1
    image[4:6, 14:18] = -1  # dark fat inside
    image[0:2, 10:12] = -1  # and at the chest wall
    image[28:31, 28:31] = 1  # a marker is no breast
    assert np.array_equal(breast_region(image), whole)
    assert np.array_equal(breast_region(image[::-1]), whole[::-1])  # chest wall on the right


def test_a_slice_of_one_value_has_no_breast():
    assert not breast_region(np.full((8, 8), -1, np.float32)).any()


@pytest.mark.parametrize("shift", [0, 3, 8])
def test_features_of_a_mask_drawn_by_hand(shift):
    mask = np.zeros((32, 32), bool)
    mask[6 + shift : 16 + shift, 16] = True  # ten pixels in a row; the breast ends after 13
    mask[4, 4] = mask[5, 5] = True  # touch by a corner only
    features = measure_mask(mask, breast())
    assert features.area == 12 / 1024
    assert features.components == 2
    inside = 2 + len([x for x in range(6 + shift, 16 + shift) if x < 14])
    assert features.inside_breast == pytest.approx(inside / 12)


def test_nothing_of_an_empty_mask_lies_outside():
    features = measure_mask(np.zeros((32, 32), bool), breast())
    assert (features.area, features.components, features.inside_breast) == (0, 0, 1)
