"""Opening a case: its volume, turned upright where its boxes need that, and what labels its slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pig_monai.data.boxes import Box, BoxMask
from pig_monai.data.cases import Case
from pig_monai.data.dicom import open_volume
from pig_monai.data.images import open_image
from pig_monai.data.masks import MergedMasks, open_masks
from pig_monai.data.orientation import is_upside_down, rotate
from pig_monai.data.slice_pictures import SlicePictures
from pig_monai.data.tsynth import TsynthMask, open_tsynth
from pig_monai.data.volume import MaskSource, UnusableError, Volume

NO_LABEL_OPTIONS: Mapping[str, Any] = {"first_slice": None, "architectural_distortions": False}
"""The options of labels, as they are unless the user says otherwise."""


@dataclass(frozen=True)
class OpenCase:
    """A case whose slices can be read.

    Args:
        volume: upright where its boxes demand it.
        masks: on the volume's grid; None where nobody labelled it.
        label_kind: ``"contour"``, or ``"box"`` for ellipses in boxes.
        centres: frames that boxes were drawn on; none for contours.
        also_lesion: frames with a lesion that ``masks`` leaves out.
        rotated: whether the volume was turned by 180°.
    """

    volume: Volume
    masks: MaskSource | None
    label_kind: str = "contour"
    centres: frozenset[int] = frozenset()
    also_lesion: frozenset[int] = frozenset()
    rotated: bool = False


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
    return OpenCase(volume, MergedMasks(sources) if sources else None)


def place_boxes(volume: Volume, boxes: Sequence[Box], laterality: str, distortions: bool) -> OpenCase:
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
