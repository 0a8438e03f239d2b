"""Which slices of a volume are taken: those with a lesion, some without, and some that nobody labelled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import label as label_regions

from pig_monai.data.bounding import bounding_box, within
from pig_monai.data.volume import MaskSource

EVERY_UNLABELLED = 5
"""Of the central slices of a volume that nobody labelled, one in so many is taken."""


@dataclass(frozen=True)
class Selection:
    """What is taken from a volume.

    Args:
        min_lesion_area: a slice holds a lesion when it holds at least this much mask, in mm² (pixels × 1 where the
            spacing is unknown).
        every_nth: of the slices with a lesion, the first and every n-th after it.
        largest_per_lesion: of the slices with a lesion, only the one on which each lesion is largest.
        lesion_free: how many slices without a lesion, with an empty label.
        lesion_free_distance: how many slices these keep from any lesion, at least.
        unlabeled: whether volumes that nobody labelled are taken, without labels.
    """

    min_lesion_area: float = 1.0
    every_nth: int = 1
    largest_per_lesion: bool = False
    lesion_free: int = 0
    lesion_free_distance: int = 5
    unlabeled: bool = False


@dataclass(frozen=True)
class Survey:
    """What a mask holds, slice by slice.

    Args:
        areas: mask of each slice, in the unit of ``Selection.min_lesion_area``.
        lesions: for each lesion, connected in three dimensions, its area on each of its slices.
    """

    areas: tuple[float, ...]
    lesions: tuple[dict[int, float], ...] = ()

    def sizes(self, least: float) -> list[float]:
        """Return the largest area of each lesion, the largest first; specks below ``least`` are no lesions."""
        largest = (max(lesion.values()) for lesion in self.lesions)
        return sorted((area for area in largest if area >= least), reverse=True)


def survey(masks: MaskSource, frames: int, pixel: tuple[float, float]) -> Survey:
    """Go through a mask once.

    Lesions touch across edges and corners, within a slice and between slices.

    Args:
        masks: of the volume.
        frames: how many slices it has.
        pixel: its (width, height) in mm, or (1, 1) where the spacing is unknown.
    """
    areas: list[float] = []
    regions: list[tuple[int, float]] = []  # (slice, area) of each region of a slice
    touching: list[tuple[int, int]] = []
    former: np.ndarray | None = None  # pixels of the slice before: (column, row, number of the region), each a row
    for index in range(frames):
        mask = masks.mask(index)
        areas.append(float(np.count_nonzero(mask)) * pixel[0] * pixel[1])
        if not areas[-1]:
            former = None
            continue
        current = _regions(mask)
        sizes = np.bincount(current[:, 2])
        current[:, 2] += len(regions)
        regions += [(index, float(size) * pixel[0] * pixel[1]) for size in sizes]
        if former is not None:
            touching += _touching(former, current)
        former = current
    return Survey(tuple(areas), _lesions(regions, touching))


def _regions(mask: np.ndarray) -> np.ndarray:
    """Return a row for each pixel of a mask that is not empty: column, row, number of its region from 0."""
    box = bounding_box(mask)
    assert box is not None
    inner = label_regions(mask[within(box)], np.ones((3, 3)))[0]
    x, y = np.nonzero(inner)
    return np.stack([x + box[0], y + box[1], inner[x, y] - 1], axis=1)


def _touching(former: np.ndarray, current: np.ndarray) -> list[tuple[int, int]]:
    """Return pairs of regions that chain together those of two neighbouring slices that touch.

    Args:
        former: from `_regions`, its regions numbered differently from those of ``current``.
        current: of the next slice.
    """
    both = np.concatenate([former, current])
    depth = np.repeat([0, 1], [len(former), len(current)])
    places = (depth, *(both[:, :2] - both[:, :2].min(axis=0)).T)
    stack = np.zeros([place.max() + 1 for place in places], bool)
    stack[places] = True
    lesion_of_pixel = label_regions(stack, np.ones((3, 3, 3)))[0][places]
    regions, pixels = np.unique(both[:, 2], return_index=True)  # a region is connected: any pixel speaks for it
    lesions = lesion_of_pixel[pixels]
    order = np.argsort(lesions, kind="stable")
    same = np.flatnonzero(np.diff(lesions[order]) == 0)
    return list(zip(regions[order[same]].tolist(), regions[order[same + 1]].tolist(), strict=True))


def _lesions(
    regions: Sequence[tuple[int, float]], touching: Sequence[tuple[int, int]]
) -> tuple[dict[int, float], ...]:
    """Join regions that touch, directly or through others: for each lesion its area on each of its slices."""
    joined = list(range(len(regions)))  # region → another of its lesion; the first one → itself

    def first(region: int) -> int:
        while joined[region] != region:
            joined[region] = region = joined[joined[region]]
        return region

    for one, other in touching:
        joined[first(other)] = first(one)
    lesions: dict[int, dict[int, float]] = defaultdict(dict)
    for region, (index, area) in enumerate(regions):
        own = lesions[first(region)]
        own[index] = own.get(index, 0.0) + area
    return tuple(lesions.values())


def lesion_slices(found: Survey, selection: Selection, centres: AbstractSet[int] = frozenset()) -> list[int]:
    """Return the slices to take for their lesions, in order.

    Args:
        found: of the volume.
        selection: what to take.
        centres: where a lesion is equally large on several slices, these win; then the middle one does.
    """
    least = selection.min_lesion_area
    holding = [index for index, area in enumerate(found.areas) if area > 0 and area >= least]
    if selection.largest_per_lesion:
        largest = {_largest(lesion, holding, centres) for lesion in found.lesions}
        return sorted(index for index in largest if index is not None)
    return holding[:: selection.every_nth]


def _largest(lesion: dict[int, float], holding: Sequence[int], centres: AbstractSet[int]) -> int | None:
    own = {index: area for index, area in lesion.items() if index in set(holding)}
    if not own:
        return None
    top = max(own.values())
    equal = sorted(index for index, area in own.items() if area == top)
    best = [index for index in equal if index in centres] or equal
    return best[(len(best) - 1) // 2]


def lesion_free_slices(
    found: Survey, selection: Selection, also_lesion: AbstractSet[int] = frozenset()
) -> list[int]:
    """Return the slices to take that hold no lesion, in order: fewer than asked for where there are no more.

    Args:
        found: of the volume.
        selection: what to take.
        also_lesion: slices that hold a lesion, too.
    """
    lesion = np.array([i for i, area in enumerate(found.areas) if area > 0 or i in also_lesion], dtype=int)
    far = [
        index
        for index in central_slices(len(found.areas))
        if np.abs(lesion - index).min(initial=len(found.areas)) >= selection.lesion_free_distance
    ]
    return spread(far, selection.lesion_free)


def unlabelled_slices(frames: int) -> list[int]:
    """Return the slices to take from a volume that nobody labelled: every fifth of the central ones."""
    central = central_slices(frames)
    return spread(central, -(-len(central) // EVERY_UNLABELLED))


def central_slices(frames: int) -> list[int]:
    """Return the slices without the tenth at either end, where there is skin and air."""
    return list(range(frames // 10, frames - frames // 10))


def spread(slices: Sequence[int], count: int) -> list[int]:
    """Return ``count`` of the slices, from the middles of as many equal parts; all where there are no more."""
    count = min(count, len(slices))
    return [slices[(2 * part + 1) * len(slices) // (2 * count)] for part in range(count)]
