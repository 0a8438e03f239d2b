import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from pig_monai.autoencoder.quality import lesion_crops, likeness


def images(shape=(40, 28), seed=0):
    random = np.random.default_rng(seed)
    true = random.uniform(-1, 1, shape)
    return true, np.clip(true + random.normal(0, 0.2, shape), -1, 1)


def test_likeness_is_that_of_its_formulas():
    true, made = images()
    found = likeness(torch.from_numpy(true), torch.from_numpy(made))
    assert found.mae == pytest.approx(np.abs(true - made).mean(), rel=1e-6)
    assert found.psnr == pytest.approx(10 * np.log10(4 / ((true - made) ** 2).mean()), rel=1e-6)
    _, each = structural_similarity(
        (true + 1) / 2, (made + 1) / 2, data_range=1.0, gaussian_weights=True, sigma=1.5, win_size=11, full=True,
        use_sample_covariance=False,
    )  # fmt: skip
    assert found.ssim == pytest.approx(each[5:-5, 5:-5].mean(), rel=1e-4)


def test_a_crop_holds_its_lesion_and_a_margin():
    mask = np.zeros((64, 50), bool)
    mask[20:30, 25:27] = True  # 10 by 2 pixels
    mask[30, 27] = True  # touches it at a corner: the same lesion
    mask[0:3, 44:50] = True  # at the border
    (border, inner) = sorted(lesion_crops(mask), key=lambda box: box[0].start)
    assert inner == (slice(12, 39), slice(17, 36))
    assert border == (slice(0, 19), slice(28, 50))


@pytest.mark.parametrize(
    ("size", "wanted"), [(16, (slice(0, 16), slice(0, 16))), (20, (slice(3, 20), slice(0, 17)))]
)
def test_a_crop_is_never_smaller_than_its_least_nor_larger_than_the_slice(size, wanted):
    mask = np.zeros((size, size), bool)
    mask[size - 1, 0] = True
    (box,) = lesion_crops(mask)
    assert box == wanted
    assert lesion_crops(np.zeros((16, 16), bool)) == []
