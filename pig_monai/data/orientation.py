"""Which way round a volume is stored: where its chest wall lies, where it should lie, and turning it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pig_monai.data.volume import Grid, Volume

CHEST_WALL = {"L": "left", "R": "right"}
"""Laterality → the side of the image on which an upright breast has its chest wall."""


def brighter_edge(frame: np.ndarray) -> str:
    """Return ``"left"`` or ``"right"``: the chest wall's side by the rule that BCS-DBT's boxes were drawn with.

    The breast is cut off at the chest wall, so the first or the last pixel column is bright. The left one wins
    where they are equal. Columns of nothing but padding lie outside the image, so they are passed over. (Prepared
    slices are mirrored by `pig_monai.data.breast.chest_wall_side`, which stands borders and markers; boxes need
    the very rule of their authors.)

    Args:
        frame: (columns, rows), larger is brighter; what is padded, NaN, counts as the darkest pixel.

    See Also:
        Buda et al., JAMA Network Open 2021, and the authors' reader of the images.
    """
    padded = np.isnan(frame)
    columns = np.flatnonzero(~padded.all(axis=1))
    if not len(columns):
        return "left"
    darkest = np.fmin.reduce(frame, axis=None)
    first, last = (
        np.where(padded[column], darkest, frame[column]).sum(dtype=np.float64)
        for column in (columns[0], columns[-1])
    )
    return "left" if first >= last else "right"


def is_upside_down(volume: Volume, laterality: str) -> bool:
    """Whether a volume shows its chest wall on the other side than its laterality demands.

    Args:
        volume: its middle frame decides.
        laterality: ``"L"`` or ``"R"``, from a source that is to be believed.
    """
    return brighter_edge(volume.frame(volume.grid.size[2] // 2)) != CHEST_WALL[laterality]


def rotate(volume: Volume) -> Volume:
    """Turn the frames of a volume by 180°: both in-plane axes are flipped, the frames keep their order.

    The grid turns with them: a pixel stays where it is in the patient.
    """
    columns, rows, _ = volume.grid.size
    affine = volume.grid.affine
    if affine is not None:
        turn = np.diag([-1.0, -1.0, 1.0, 1.0])
        turn[:2, 3] = columns - 1, rows - 1
        affine = affine @ turn
    return replace(
        volume,
        grid=Grid(volume.grid.size, affine, volume.grid.frame_of_reference),
        frame=lambda index: volume.frame(index)[::-1, ::-1],
    )
