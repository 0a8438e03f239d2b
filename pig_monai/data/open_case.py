"""Opening a case: its volume, turned upright, and what labels its slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pig_monai.data.boxes import BoxMask, LesionBox
from pig_monai.data.cases import Case
from pig_monai.data.dicom import open_volume
from pig_monai.data.images import open_image
from pig_monai.data.masks import MergedMasks, RememberedMasks, open_masks
from pig_monai.data.orientation import (
    CHEST_WALL,
    TurnedMasks,
    is_said_to_be_mirrored,
    is_upside_down,
    look_for_chest_wall,
    rotate,
)
from pig_monai.data.prepare_slice import EACH
from pig_monai.data.slice_pictures import SlicePictures
from pig_monai.data.tsynth import TsynthMask, open_tsynth
from pig_monai.data.volume import MaskSource, UnusableError, Volume

MIRRORED = "the laterality disagrees with the pixels, which Patient Orientation agrees with: they were not turned"
UNSURE = "the chest wall's side could not be told: they were neither turned nor mirrored"

NO_LABEL_OPTIONS: Mapping[str, Any] = {"first_slice": None, "architectural_distortions": False}
"""The options of labels, as they are unless the user says otherwise."""


@dataclass(frozen=True)
class OpenCase:
    """A case whose slices can be read.

    Args:
        volume: as stored, or turned: where its boxes demand it, and by `turn_upright`.
        masks: on the volume's grid; None where nobody labelled it.
        label_kind: ``"contour"``, or ``"box"`` for ellipses in boxes.
        centres: frames that boxes were drawn on; none for contours.
        also_lesion: frames with a lesion that ``masks`` leaves out.
        rotated: whether the volume was turned by 180°.
        chest_wall: its side in ``volume``: ``"left"``, ``"right"``, or None where the pixels do not say;
            `EACH` where each slice says for itself, as images do.
        remarks: as for `Volume`.
    """

    volume: Volume
    masks: MaskSource | None
    label_kind: str = "contour"
    centres: frozenset[int] = frozenset()
    also_lesion: frozenset[int] = frozenset()
    rotated: bool = False
    chest_wall: str | None = EACH
    remarks: tuple[str, ...] = ()


def open_case(case: Case, labels: Mapping[str, Any]) -> OpenCase:
    """Open a case.

    Args:
        case: from `pig_monai.data.find_volumes` or `pig_monai.data.find_images`.
        labels: ``first_slice`` (see `SlicePictures`) and ``architectural_distortions``, whether their boxes count;
            images need neither.

    Raises:
        UnusableError: the volume or its labels cannot be read or do not fit each other.
    """
    if case.kind == "image":
        image = open_image(case.source)
        return OpenCase(image, open_masks(case.masks, image.grid, volumetric=False) if case.masks else None)
    if case.kind == "tsynth":
        simulated = open_tsynth(case.source)
        return OpenCase(simulated, TsynthMask(case.masks[0], simulated.grid) if case.masks else None)
    volume = open_volume(case.slices or [case.source])
    if case.boxes:
        return place_boxes(volume, case.boxes, str(case.laterality), labels["architectural_distortions"])
    sources: list[MaskSource] = []
    if case.masks:
        sources.append(open_masks(case.masks, volume.grid, volumetric=True))
    if case.pictures:
        sources.append(SlicePictures(case.pictures, volume, labels["first_slice"]))
    if not sources:
        return OpenCase(volume, None)
    return OpenCase(volume, RememberedMasks(MergedMasks(sources), volume.grid.size[:2]))


def place_boxes(volume: Volume, boxes: Sequence[LesionBox], laterality: str, distortions: bool) -> OpenCase:
    """Turn a volume the way its boxes were drawn, and make masks of them.

    Args:
        volume: as stored.
        boxes: at least one.
        laterality: ``"L"`` or ``"R"``, as the boxes' file says: that of BCS-DBT's headers is unreliable.
        distortions: whether boxes around architectural distortions count.

    Raises:
        UnusableError: no box counts, or one lies outside the volume.
    """
    taken = [box for box in boxes if distortions or not box.distortion]
    if not taken:
        raise UnusableError(
            "its boxes are architectural distortions, not masses",
            "give --architectural_distortions true to take them",
        )
    rotated = is_upside_down(volume, laterality)
    if rotated:
        volume = rotate(volume)
    masks, every = BoxMask(taken, volume), BoxMask(boxes, volume)
    return OpenCase(volume, masks, "box", masks.centres, every.frames() - masks.frames(), rotated)


def turn_upright(opened: OpenCase, laterality: str | None, wanted: Sequence[int], turn: bool) -> OpenCase:
    """Find a volume's chest wall in its pixels; where it is on the other side than it should be, turn all by 180°.

    Volumes with boxes were turned when these were placed, by the rule of the boxes' authors.

    Args:
        opened: a volume.
        laterality: ``"L"`` or ``"R"``, from the header or the view; None: nothing says where it should be.
        wanted: the frames that will be read.
        turn: whether to turn; if not, the side is found all the same.

    Raises:
        UnusableError: a frame cannot be read.
    """
    volume, side = look_for_chest_wall(opened.volume, wanted)
    opened = replace(opened, volume=volume, chest_wall=side)
    if side is None:
        return replace(opened, remarks=(UNSURE,))
    if not turn or opened.label_kind == "box" or CHEST_WALL.get(laterality or "", side) == side:
        return opened
    if is_said_to_be_mirrored(volume, side):
        return replace(opened, remarks=(MIRRORED,))
    return replace(
        opened,
        volume=rotate(volume),
        masks=None if opened.masks is None else TurnedMasks(opened.masks),
        rotated=True,
        chest_wall=CHEST_WALL[str(laterality)],
    )
