"""Masks of a volume as pictures, one a slice: which slice each shows, and its pixels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pig_monai.data.masks import ImageMask
from pig_monai.data.volume import Grid, UnusableError, Volume


class SlicePictures:
    """Numbered pictures on the slices of a volume; slices without one are empty, several of a slice are merged.

    Numbers count the slices as the volume's file stores them, as viewers do, from 0 or from 1.

    Args:
        pictures: (number, file) each; at least one.
        volume: what they were drawn on.
        first_slice: the number of the first slice, 0 or 1; None: found out where only one of them fits.

    Raises:
        UnusableError: the numbers do not fit the volume, or fit it both ways.
    """

    def __init__(self, pictures: Sequence[tuple[int, Path]], volume: Volume, first_slice: int | None) -> None:
        columns, rows, frames = volume.grid.size
        self.grid = Grid((columns, rows, 1))
        first = _first_number([number for number, _ in pictures], frames, first_slice)
        self.files: dict[int, list[Path]] = defaultdict(list)
        for number, file in pictures:
            self.files[volume.frame_stored_at(number - first)].append(file)

    def mask(self, index: int) -> np.ndarray:
        """Return the mask of frame ``index``: bool (columns, rows)."""
        pixels = np.zeros(self.grid.size[:2], bool)
        for file in self.files.get(index, []):
            pixels |= ImageMask(file, self.grid).mask(0)
        return pixels


def _first_number(numbers: Sequence[int], frames: int, first_slice: int | None) -> int:
    least, most = min(numbers), max(numbers)
    numbered = f"numbered {least} to {most}"  # for the log alone: a number in a file's name may be a patient's
    fitting = [first for first in (0, 1) if first <= least and most < first + frames]
    if first_slice is not None:
        fitting = [first for first in fitting if first == first_slice]
    if not fitting:
        counted = "" if first_slice is None else f", counted from {first_slice}"
        raise UnusableError(
            f"the numbers of its pictures do not fit its {frames} slices{counted}",
            "number the pictures as the volume's file stores its slices",
            numbered,
        )
    if len(fitting) > 1:
        raise UnusableError(
            f"its pictures may count its {frames} slices from 0 or from 1",
            "give --first_slice 0 or --first_slice 1",
            numbered,
        )
    return fitting[0]
