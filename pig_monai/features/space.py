"""Feature spaces: functions with one signature, and the parts of a slice that they look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pig_monai.features.crops import lesion_crops

SLICE, LESION, MASK = "slice", "lesion", "mask"
REGIONS = (SLICE, LESION, MASK)
"""The whole slice, the crop round its largest lesion, the mask alone."""

Extractor = Callable[[np.ndarray], np.ndarray]
"""What a region shows, (n, W, H): float32 in [−1, 1] or masks, bool, none empty → features (n, d) float64."""


@dataclass(frozen=True)
class FeatureSpace:
    """A way to describe slices by numbers.

    Args:
        name: short, for tables.
        title: for people.
        extract: the function.
        regions: what it is applied to.
        standardise: its figures have units of their own, and are divided by their real standard deviations.
        distances: distributions are compared in it; otherwise it serves memorisation alone.
        fid: the Fréchet distance of whole slices in it, all dimensions kept, is what the literature calls FID.
    """

    name: str
    title: str
    extract: Extractor
    regions: Sequence[str] = (SLICE, LESION)
    standardise: bool = False
    distances: bool = True
    fid: bool = False


Features = Mapping[tuple[str, str], np.ndarray]
"""Features (n, d) by name of the space and region."""


def within(spaces: Sequence[FeatureSpace], regions: Sequence[str]) -> list[FeatureSpace]:
    """Return the spaces with those of their regions that are given; without one that looks at none of them."""
    kept = [replace(space, regions=tuple(r for r in space.regions if r in regions)) for space in spaces]
    return [space for space in kept if space.regions]


def extract_all(
    spaces: Sequence[FeatureSpace], slices: np.ndarray, masks: np.ndarray | None
) -> dict[tuple[str, str], np.ndarray]:
    """Describe slices in every space and region.

    Args:
        spaces: which; without masks only such as look at whole slices alone, see `within`.
        slices: float32 (n, W, H) in [−1, 1].
        masks: bool (n, W, H), none empty; None where the slices have none.
    """
    shown = {SLICE: slices}
    if masks is not None:
        shown |= {LESION: lesion_crops(slices, masks), MASK: masks}
    return {
        (space.name, region): np.asarray(space.extract(shown[region]), dtype=np.float64)
        for space in spaces
        for region in space.regions
    }


def join(parts: Sequence[Features]) -> dict[tuple[str, str], np.ndarray]:
    """Return the features of several batches as one."""
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
