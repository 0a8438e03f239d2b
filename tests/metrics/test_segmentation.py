"""Metrics of a slice against NumPy in float64, brute force, geometry and MONAI's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import ConfusionMatrixMetric, DiceMetric, HausdorffDistanceMetric, MeanIoU
from scipy.spatial.distance import cdist
from skimage.metrics import hausdorff_distance
from skimage.segmentation import find_boundaries

from pig_monai.metrics.segmentation import diagonal, hausdorff95, measure_slice

SHAPE = (37, 29)
SPACING = (0.1, 0.25)


def blobs(seed: int, share: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.random((SHAPE[0] // 3 + 1, SHAPE[1] // 3 + 1)) < share
    return np.kron(coarse, np.ones((3, 3), bool)).astype(bool)[: SHAPE[0], : SHAPE[1]]


CASES = [(blobs(2 * n, 0.02 + 0.05 * n), blobs(2 * n + 1, 0.03 + 0.04 * n)) for n in range(1, 9)]
CASES += [(CASES[0][0], CASES[0][0]), (CASES[3][0], np.ones(SHAPE, bool)), (np.ones(SHAPE, bool), CASES[3][0])]


def tensors(masks: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(masks)[:, None].astype(np.float32))


def disc(radius: float, centre: tuple[float, float], size: int = 401) -> np.ndarray:
    x, y = np.ogrid[:size, :size]
    return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2


@pytest.mark.parametrize(("truth", "prediction"), CASES)
def test_overlaps_are_the_float64_formulas(truth, prediction):
    t, p = truth.astype(np.float64).ravel(), prediction.astype(np.float64).ravel()
    found = measure_slice(truth, prediction, SPACING)
    assert found.dice == pytest.approx(2 * (t @ p) / (t.sum() + p.sum()), abs=1e-12)
    assert found.iou == pytest.approx((t @ p) / np.maximum(t, p).sum(), abs=1e-12)
    assert found.precision == pytest.approx((t @ p) / p.sum(), abs=1e-12)
    assert found.recall == pytest.approx((t @ p) / t.sum(), abs=1e-12)
    assert (found.truth_pixels, found.predicted_pixels) == (t.sum(), p.sum())


def brute_hd95(truth: np.ndarray, prediction: np.ndarray, spacing: tuple[float, float]) -> float:
    """All pairs of edge pixels, found by scikit-image; the border counts as outside."""
    edges = []
    for mask in (truth, prediction):
        inside = find_boundaries(np.pad(mask, 1), mode="inner", connectivity=1)[1:-1, 1:-1]
        edges.append(np.stack(np.nonzero(inside), axis=1) * np.array(spacing))
    distances = cdist(*edges)
    return float(max(np.percentile(distances.min(axis=axis), 95) for axis in (0, 1)))


@pytest.mark.parametrize("spacing", [SPACING, (1.0, 1.0)])
@pytest.mark.parametrize(("truth", "prediction"), CASES)
def test_hd95_is_that_of_all_pairs_of_edge_pixels(truth, prediction, spacing):
    expected = brute_hd95(truth, prediction, spacing)
    assert hausdorff95(truth, prediction, spacing) == pytest.approx(expected, abs=1e-9)


def test_hd95_of_single_pixels_and_shifted_squares_is_their_distance():
    one, other = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    one[3, 4] = other[6, 8] = True
    assert hausdorff95(one, other, (1, 1)) == 5
    assert hausdorff95(one, other, (2, 0.5)) == pytest.approx(math.hypot(6, 2))
    assert hausdorff95(one, other, (1, 1)) == hausdorff_distance(one, other)  # of single pixels HD95 is HD
    inner, outer = disc(60, (200, 200)), disc(100, (200, 200))
    assert hausdorff95(outer, inner, (0.1, 0.1)) == pytest.approx(4.0, abs=0.1)


def test_discs_have_the_overlap_of_circles():
    r, d = 120.0, 80.0
    lens = 2 * r**2 * math.acos(d / (2 * r)) - d / 2 * math.sqrt(4 * r**2 - d**2)
    found = measure_slice(disc(r, (160, 200)), disc(r, (240, 200)), None)
    assert found.dice == pytest.approx(lens / (math.pi * r**2), abs=2e-3)
    assert found.iou == pytest.approx(lens / (2 * math.pi * r**2 - lens), abs=2e-3)
    assert found.hd95_px == pytest.approx(80, abs=2)
    assert math.isnan(found.hd95_mm)


def test_mm_and_pixels_agree_where_the_pixels_are_square():
    truth, prediction = CASES[2]
    found = measure_slice(truth, prediction, (0.2, 0.2))
    assert found.hd95_mm == pytest.approx(0.2 * found.hd95_px)


def test_monais_metrics_say_the_same_where_both_masks_hold_something():
    truths, predictions = tensors([t for t, _ in CASES]), tensors([p for _, p in CASES])
    ours = [measure_slice(t, p, SPACING) for t, p in CASES]
    kept = {"include_background": True, "reduction": "none"}
    confusion = ConfusionMatrixMetric(metric_name=["precision", "recall"], compute_sample=True, **kept)
    confusion(predictions, truths)
    precision, recall = confusion.aggregate()
    theirs = {
        "dice": DiceMetric(**kept)(predictions, truths),
        "iou": MeanIoU(**kept)(predictions, truths),
        "precision": precision,
        "recall": recall,
        "hd95_mm": HausdorffDistanceMetric(percentile=95, **kept)(predictions, truths, spacing=SPACING),
    }
    for name, values in theirs.items():
        assert [getattr(one, name) for one in ours] == pytest.approx(values[:, 0].tolist(), abs=1e-6), name


NOTHING = np.zeros(SHAPE, bool)


@pytest.mark.parametrize("prediction", [NOTHING, CASES[0][0]])
def test_without_a_lesion_nothing_is_defined(prediction):
    found = measure_slice(NOTHING, prediction, SPACING)
    values = (found.dice, found.iou, found.precision, found.recall, found.hd95_mm, found.hd95_px)
    assert all(math.isnan(value) for value in values)
    assert (found.truth_pixels, found.predicted_pixels) == (0, prediction.sum())


def test_a_lesion_without_prediction_gets_the_worst_values():
    corner = NOTHING.copy()
    corner[0, 0] = True
    found = measure_slice(corner, NOTHING, SPACING)
    assert (found.dice, found.iou, found.precision, found.recall) == (0, 0, 0, 0)
    far = NOTHING.copy()
    far[-1, -1] = True
    # nothing that can be predicted is farther away
    assert found.hd95_mm == diagonal(SHAPE, SPACING) == hausdorff95(corner, far, SPACING)
    assert found.hd95_px == diagonal(SHAPE, (1, 1)) == hausdorff95(corner, far, (1, 1))


def test_monai_leaves_out_or_has_infinity_where_the_prediction_is_empty():
    """The docs say so; where MONAI changes it, they must, too."""
    truth, nothing = tensors([CASES[0][0]]), tensors([NOTHING])
    kept = {"include_background": True, "reduction": "none"}
    assert DiceMetric(**kept)(nothing, truth).item() == 0
    assert math.isnan(DiceMetric(**kept)(truth, nothing).item())
    confusion = ConfusionMatrixMetric(metric_name=["precision"], compute_sample=True, **kept)
    confusion(nothing, truth)
    assert math.isnan(confusion.aggregate()[0].item())
    with pytest.warns(UserWarning, match="prediction"):
        assert not math.isfinite(HausdorffDistanceMetric(percentile=95, **kept)(nothing, truth).item())


def test_masks_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match=r"\(37, 29\).*\(4, 4\)"):
        measure_slice(NOTHING, np.zeros((4, 4), bool), None)
