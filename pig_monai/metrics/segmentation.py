"""A slice's prediction against its truth: overlap and surface distance, in float64.

What an empty mask counts as is decided here, once:

* No lesion in the truth: Dice, IoU, precision, recall and HD95 are NaN. Such slices count in the false positives
  and in the share of clean slices (`pig_monai.metrics.lesions`). MONAI has Dice and IoU of NaN, too.
* A lesion but no prediction: each metric gets its worst value, 0 for the overlaps and the slice's diagonal for
  HD95, so that silence never pays. MONAI leaves these slices out of the precision and has infinity for HD95.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

PERCENTILE = 95.0


@dataclass(frozen=True)
class SliceMetrics:
    """The figures of one slice; NaN where undefined.

    Args:
        truth_pixels: of the truth.
        predicted_pixels: of the prediction.
        dice: 2 |T ∩ P| / (|T| + |P|).
        iou: |T ∩ P| / |T ∪ P|.
        precision: |T ∩ P| / |P|.
        recall: |T ∩ P| / |T|.
        hd95_mm: see `hausdorff95`; NaN also where the spacing is unknown.
        hd95_px: the same in pixels.
    """

    truth_pixels: int
    predicted_pixels: int
    dice: float
    iou: float
    precision: float
    recall: float
    hd95_mm: float
    hd95_px: float


def measure_slice(truth: np.ndarray, prediction: np.ndarray, spacing: Sequence[float] | None) -> SliceMetrics:
    """Compare a prediction with the truth.

    Args:
        truth: bool (W, H).
        prediction: bool (W, H).
        spacing: (sx, sy) in mm; None where unknown.

    Raises:
        ValueError: the masks differ in shape.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"the truth has the shape {truth.shape} and the prediction {prediction.shape}")
    both = int(np.count_nonzero(truth & prediction))
    true, predicted = int(np.count_nonzero(truth)), int(np.count_nonzero(prediction))
    if not true:
        return SliceMetrics(true, predicted, *[math.nan] * 6)
    return SliceMetrics(
        truth_pixels=true,
        predicted_pixels=predicted,
        dice=2 * both / (true + predicted),
        iou=both / (true + predicted - both),
        precision=both / predicted if predicted else 0.0,
        recall=both / true,
        hd95_mm=math.nan if spacing is None else hausdorff95(truth, prediction, spacing),
        hd95_px=hausdorff95(truth, prediction, (1.0, 1.0)),
    )


def hausdorff95(truth: np.ndarray, prediction: np.ndarray, spacing: Sequence[float]) -> float:
    """Return the 95 % Hausdorff distance, in the unit of ``spacing``.

    For each mask: the distances from its edge pixels to the other's nearest edge pixel, between centres; their
    95th percentile, interpolated linearly. The result is the larger of the two. An edge pixel has a side in common
    with a pixel outside the mask or with the image's border. This is what MONAI's `HausdorffDistanceMetric` with
    ``percentile=95`` computes in float32.

    Args:
        truth: bool (W, H), not empty.
        prediction: bool (W, H); where empty, the result is `diagonal`.
        spacing: of the pixels, (sx, sy).
    """
    if not prediction.any():
        return diagonal(truth.shape, spacing)
    one, other = (_edge_points(mask, spacing) for mask in (truth, prediction))
    there, back = KDTree(other).query(one)[0], KDTree(one).query(other)[0]
    return float(max(np.percentile(there, PERCENTILE), np.percentile(back, PERCENTILE)))


def diagonal(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Return the largest distance between two pixel centres of a slice (W, H), in the unit of ``spacing``."""
    return math.hypot(*((n - 1) * s for n, s in zip(shape, spacing, strict=True)))


def _edge_points(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Return the centres of a mask's edge pixels: float64 (n, 2)."""
    edges = mask & ~ndimage.binary_erosion(mask)
    points: np.ndarray = np.argwhere(edges) * np.asarray(spacing, dtype=np.float64)
    return points
