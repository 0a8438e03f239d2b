"""The shape and place of masks: as features, and as statistics to look at one by one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from skimage.measure import label, regionprops

from pig_monai.features.crops import largest_lesion
from pig_monai.features.space import MASK, FeatureSpace
from pig_monai.mask_features import breast_region


@dataclass(frozen=True)
class Statistic:
    """A figure of a mask.

    Args:
        title: for people, with its unit.
        factor: from the value to the unit.
    """

    title: str
    factor: float = 1.0


STATISTICS = {
    "area": Statistic("area, % of the slice", 100),
    "components": Statistic("lesions in the mask"),
    "eccentricity": Statistic("eccentricity of the largest lesion (0 round, 1 a line)"),
    "solidity": Statistic("solidity of the largest lesion (1 without dents)"),
    "x": Statistic("position from left to right (0 to 1)"),
    "y": Statistic("position from top to bottom (0 to 1)"),
    "inside_breast": Statistic("share of the mask inside the breast, %", 100),
}
"""What `mask_statistics` measures, in this order."""


def mask_statistics(slices: np.ndarray, masks: np.ndarray) -> dict[str, np.ndarray]:
    """Measure masks and whether they lie in the breast.

    Args:
        slices: float32 (n, W, H) in [−1, 1].
        masks: bool (n, W, H), none empty.

    Returns:
        values (n,) by the names of `STATISTICS`: those of `measure_shape`, and ``inside_breast``.

    Raises:
        ValueError: an empty mask.
    """
    rows = [
        {**measure_shape(mask), "inside_breast": float(breast_region(image)[mask].mean())}
        for image, mask in zip(slices, masks, strict=True)
    ]
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in STATISTICS}


def measure_shape(mask: np.ndarray) -> dict[str, float]:
    """Measure one mask, bool (W, H).

    Returns:
        ``area``, share of the slice's pixels; ``components``, 8-connected ones; ``eccentricity`` and ``solidity``
        of the largest; ``x`` and ``y``, the centre of all pixels by the slice's width and height.

    Raises:
        ValueError: an empty mask.
    """
    region = regionprops(largest_lesion(mask).astype(np.uint8))[0]
    x, y = ((np.argwhere(mask) + 0.5).mean(axis=0) / mask.shape).tolist()
    return {
        "area": float(mask.mean()),
        "components": float(label(mask, connectivity=2, return_num=True)[1]),
        "eccentricity": float(region.eccentricity),
        "solidity": float(region.solidity),
        "x": x,
        "y": y,
    }


def shape_features(masks: np.ndarray) -> np.ndarray:
    """Return six figures of each mask: (n, 6) float64.

    Those of `measure_shape`, but instead of the area the diameter of a disc that has it, by the slice's side:
    areas are skewed, diameters less.

    Args:
        masks: bool (n, W, H), none empty.
    """
    rows = np.array([list(measure_shape(mask).values()) for mask in masks])
    rows[:, 0] = np.sqrt(4 / np.pi * rows[:, 0])
    return rows


SHAPE = FeatureSpace("shape", "shape of the mask (scikit-image)", shape_features, (MASK,), standardise=True)
