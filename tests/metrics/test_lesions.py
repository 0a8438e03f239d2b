"""Lesions and findings, matched by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from pig_monai.metrics.lesions import match_lesions


def boxes(*corners: tuple[int, int, int, int]) -> np.ndarray:
    """Return a mask of boxes, each (x, y, width, height)."""
    mask = np.zeros((40, 40), bool)
    for x, y, width, height in corners:
        mask[x : x + width, y : y + height] = True
    return mask


def test_one_found_one_missed_one_false_positive():
    truth = boxes((2, 2, 4, 4), (20, 20, 5, 2))
    found = match_lesions(truth, boxes((3, 2, 4, 4), (30, 2, 3, 3)))
    assert [(lesion.pixels, lesion.hit) for lesion in found.lesions] == [(16, True), (10, False)]
    assert found.lesions[0].iou == pytest.approx(12 / 20)
    assert found.lesions[0].covered == 12 / 16
    assert (found.lesions[1].iou, found.lesions[1].covered) == (0, 0)
    assert (found.findings, found.false_positives) == (2, 1)


def test_a_hit_needs_a_tenth_of_iou():
    truth = boxes((10, 10, 1, 10))
    at_limit, below = boxes((10, 10, 10, 10)), boxes((10, 10, 10, 11))
    assert match_lesions(truth, at_limit).lesions[0].iou == pytest.approx(0.1)
    assert match_lesions(truth, at_limit).lesions[0].hit
    assert not match_lesions(truth, below).lesions[0].hit
    # it touches a lesion: no false positive either
    assert match_lesions(truth, below).false_positives == 0


def test_a_lesion_is_hit_by_one_finding_not_by_crumbs():
    truth = boxes((10, 10, 10, 10))
    crumbs = boxes(*((10 + 2 * i, 10 + 2 * j, 1, 1) for i in range(5) for j in range(5)))
    found = match_lesions(truth, crumbs)
    assert (found.lesions[0].iou, found.lesions[0].covered) == (0.01, 0.25)
    assert not found.lesions[0].hit
    assert (found.findings, found.false_positives) == (25, 0)


def test_one_finding_may_hit_two_lesions():
    found = match_lesions(boxes((4, 4, 4, 4), (4, 9, 4, 4)), boxes((4, 4, 4, 9)))
    assert [lesion.hit for lesion in found.lesions] == [True, True]
    assert [lesion.iou for lesion in found.lesions] == [pytest.approx(16 / 36)] * 2
    assert found.false_positives == 0


def test_parts_that_meet_at_a_corner_are_one():
    found = match_lesions(boxes((4, 4, 2, 2), (6, 6, 2, 2)), boxes((20, 20, 1, 1), (21, 21, 1, 1)))
    assert len(found.lesions) == 1
    assert found.lesions[0].pixels == 8
    assert (found.findings, found.false_positives) == (1, 1)


def test_empty_masks():
    nothing, box = boxes(), boxes((4, 4, 3, 3))
    clean = match_lesions(nothing, nothing)
    assert (clean.lesions, clean.findings, clean.false_positives) == ([], 0, 0)
    assert match_lesions(nothing, box).false_positives == 1
    missed = match_lesions(box, nothing)
    assert (missed.lesions[0].iou, missed.lesions[0].covered, missed.false_positives) == (0, 0, 0)


@pytest.mark.parametrize("seed", range(5))
def test_random_masks_against_scipys_labels_and_loops(seed):
    rng = np.random.default_rng(seed)
    truth, prediction = (np.kron(rng.random((20, 20)) < p, np.ones((2, 2))) > 0 for p in (0.1, 0.15))
    true, n = ndimage.label(truth, structure=np.ones((3, 3)))
    predicted, m = ndimage.label(prediction, structure=np.ones((3, 3)))
    expected = []
    for i in range(1, n + 1):
        one, parts = true == i, [predicted == j for j in range(1, m + 1)]
        ious = [(one & part).sum() / (one | part).sum() for part in parts]
        expected.append((one.sum(), max(ious), prediction[one].mean()))
    found = match_lesions(truth, prediction)
    measured = sorted((lesion.pixels, lesion.iou, lesion.covered) for lesion in found.lesions)
    np.testing.assert_allclose(measured, sorted(expected), atol=1e-12)
    assert found.findings == m
    assert found.false_positives == sum(not truth[predicted == j].any() for j in range(1, m + 1))
