"""Which way round a volume is stored: where its chest wall lies, where it should lie, and turning it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pig_monai.data.breast import clear_side, find_breast
from pig_monai.data.selection import central_slices, spread
from pig_monai.data.volume import Grid, MaskSource, Volume

CHEST_WALL = {"L": "left", "R": "right"}
"""Laterality → the side of the image on which an upright breast has its chest wall."""

VOTES = 3
"""So many frames say on which side a volume's chest wall is."""


def look_for_chest_wall(volume: Volume, wanted: Sequence[int]) -> tuple[Volume, str | None]:
    """Find the chest wall's side in the pixels.

    Frames vote: of those that are wanted anyway, and where these are too few, of the volume's middle. More than
    half of them must show one side.

    Args:
        volume: any.
        wanted: frames that will be read.

    Returns:
        the volume, which does not decode the frames that voted once more; and ``"left"``, ``"right"`` or None.
    """
    voters = spread(wanted, VOTES)
    others = [i for i in spread(central_slices(volume.grid.size[2]), VOTES) if i not in voters]
    voters = [*voters, *others[: VOTES - len(voters)]]
    votes: Counter[str | None] = Counter()
    kept = {}
    for index in voters:
        frame = volume.frame(index)
        votes[clear_side(find_breast(frame))] += 1
        if index in wanted:
            kept[index] = frame
    side, count = votes.most_common(1)[0]
    seen = replace(volume, frame=lambda index: kept.pop(index) if index in kept else volume.frame(index))
    return seen, side if 2 * count > len(voters) else None


def is_said_to_be_mirrored(volume: Volume, side: str) -> bool:
    """Whether Patient Orientation says that the chest wall is where the pixels show it, and the feet are below.

    Then a volume whose laterality demands the other side is mirrored, or its laterality is wrong: turning it would
    put it upside down. (In views from above the second direction is left or right, which depends on the laterality
    in doubt; only one that runs to the head says that the volume lies upside down.)

    Args:
        volume: as stored.
        side: ``"left"`` or ``"right"``, the chest wall's in the pixels.
    """
    if len(volume.directions) != 2:
        return False
    row, column = (direction[:1] for direction in volume.directions)
    return {"P": "right", "A": "left"}.get(row) == side and column != "H"


class TurnedMasks:
    """Masks turned by 180°, as `rotate` turns the volume that they lie on."""

    def __init__(self, masks: MaskSource) -> None:
        self.masks = masks

    def mask(self, index: int) -> np.ndarray:
        """Return the mask of frame ``index``: bool (columns, rows)."""
        return self.masks.mask(index)[::-1, ::-1]


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
        directions=(),
    )
