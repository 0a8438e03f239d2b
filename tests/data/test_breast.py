"""The breast is found where it was drawn, whatever else is in the slice."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import maximum_filter, minimum_filter

from pig_monai.data.breast import _grown, _shrunk, chest_wall_side, clear_side, find_breast
from tests.data import breasts as b

W, H = b.SHAPE
EDGE = int(0.6 * W)  # where the nipple is
TOP = round(0.1 * H)  # where the breast begins

CASES = {
    "plain": ({}, []),
    "text that touches nothing": ({}, [b.text(700, 40)]),
    "text that touches the skin": ({}, [b.text(EDGE - 15, H // 2 - 20)]),
    "text above the breast, on its skin": ({}, [b.text(5, TOP - 35, letters=5)]),
    "large text beside the skin": ({}, [b.text(EDGE + 30, H // 2, letters=2, height=120)]),
    "large text on the skin": ({}, [b.text(EDGE - 20, H // 2, letters=3, height=90)]),
    "a plate with a marker": ({}, [b.block(EDGE + 60, 100, EDGE + 260, 250, 4000)]),
    "a marker block on the skin": ({}, [b.block(EDGE - 10, 600, EDGE + 60, 660, 4000)]),
    "text as bright as the breast": ({}, [b.text(EDGE - 10, H // 2 - 15, height=30, value=1200)]),
    "paddle across the bottom": ({}, [b.block(0, H - 140, W, H - 128, 1500)]),
    "paddle along the top edge": ({}, [b.block(0, 0, W, 14, 900)]),
    "paddle at the side": ({}, [b.block(EDGE - 8, 0, EDGE + 8, H, 700)]),
    "paddle at the chest wall": ({}, [b.block(0, 0, 12, H, 1500)], 12),
    "rounded paddle": ({}, [b.curved_line(1000)]),
    "two paddle edges": ({}, [b.block(0, 100, W, 110, 800), b.block(EDGE + 40, 0, EDGE + 52, H, 800)]),
    "a level": ({}, [b.gradient(300, 0, 0)]),
    "a gradient across": ({}, [b.gradient(200, 150, 0)]),
    "a gradient down and across, noise": ({}, [b.gradient(200, -100, 120), b.noise(10)]),
    "noise of 0.5 %": ({}, [b.noise(6)]),
    "noise of 3 %": ({}, [b.noise(36)]),
    "a white frame": ({}, [b.frame(4, 4000)], 4),
    "a white frame, text and noise": ({}, [b.text(700, 40), b.noise(12), b.frame(7, 4000)], 7),
    "a pacemaker": ({}, [b.block(100, 300, 260, 420, 6000)]),
    "an implant": ({}, [b.block(40, 350, 380, 850, 2500)]),
    "three edges touched": ({"tall": 1.3, "across": 0.8}, []),
    "three edges touched, noise": ({"tall": 1.3, "across": 0.8}, [b.noise(24), b.gradient(100, 40, 0)]),
    "very dense": ({"dense": 0.95}, []),
    "very fatty": ({"dense": 0.03, "level": 150}, [b.block(150, 500, 300, 700, 1200)]),
    "small": ({"tall": 0.35, "across": 0.2}, [b.text(700, 40)]),
}

# what lies on the skin and is as bright as the breast leaves a stub
ON_THE_SKIN = {"text as bright as the breast": 0.015, "paddle at the side": 0.015}


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_the_box_is_that_of_the_breast(case: str, mirrored: bool) -> None:
    options, artefacts, *edge = CASES[case]
    hidden = edge[0] if edge else 0  # pixels at the edges that show something else
    image, truth = b.breast(**options)
    for put in artefacts:
        put(image)
    truth[:hidden], truth[:, :hidden], truth[:, H - hidden :] = False, False, False
    if mirrored:
        image, truth = image[::-1].copy(), truth[::-1]
    found = find_breast(image)
    off = np.abs(np.subtract(found.box, b.box_of(truth))) / np.array([W, H, W, H])
    assert off.max() <= ON_THE_SKIN.get(case, 0.01), (found.box, b.box_of(truth))
    assert clear_side(found) == ("right" if mirrored else "left")
    inside = found.mask()
    assert (inside & ~truth).sum() < 0.02 * truth.sum()
    assert (truth & ~inside).sum() < 0.1 * truth.sum()


@pytest.mark.parametrize("step", [1, 2, 3])
def test_without_a_breast_there_is_no_box(step: int) -> None:
    shape = (300 * step, 200 * step)
    for empty in (np.zeros(shape), np.full(shape, 7.0), np.full(shape, np.nan)):
        found = find_breast(empty.astype(np.float32))
        assert found.box is None
        assert clear_side(found) is None
        assert not found.mask().any()


def test_values_are_those_inside_the_breast() -> None:
    """Percentiles of a sample of a large slice are those of all its pixels, and NaN is none of them."""
    image, truth = b.breast((1890, 2457))
    b.noise(5)(image)
    image[:50] = np.nan
    truth[:50] = False
    found = find_breast(image)
    values = found.values(image)
    assert not np.isnan(values).any()
    marks = [0.5, 5, 50, 95, 99.5]
    all_of_them = np.sort(image[truth])
    ranks = np.searchsorted(all_of_them, np.percentile(values, marks)) / len(all_of_them) * 100
    np.testing.assert_allclose(ranks, marks, atol=0.4)


def test_a_magnified_view_has_no_clear_side() -> None:
    """Tissue from edge to edge, and a breast in the middle that no edge cuts off."""
    filled = b.breast(across=9, tall=9)[0]
    x, y = np.mgrid[:W, :H]
    round_one = np.where(np.hypot(x - W / 2, y - H / 2) < 0.4 * W, 500 + y % 7, 0).astype(np.float32)
    for image in (filled, round_one):
        assert clear_side(find_breast(image)) is None
    assert chest_wall_side(np.zeros((5, 5), bool)) == "left"


@pytest.mark.parametrize("side", [1, 3, 9, 29])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_regions_grow_and_shrink_by_squares_as_scipy_filters_them(side: int, share: float) -> None:
    rng = np.random.default_rng(side)
    for shape in ((40, 31), (7, 50), (1, 1)):  # squares larger than the image, too
        region = rng.random(shape) < share
        for turned in (region, region.T):
            np.testing.assert_array_equal(_grown(turned, side), maximum_filter(turned, side))
            np.testing.assert_array_equal(_shrunk(turned, side), minimum_filter(turned, side))
