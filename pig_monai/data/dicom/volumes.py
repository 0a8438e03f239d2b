"""DICOM volumes: a multi-frame object, one file per slice, or a mammogram as a volume of one frame."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from pydicom.dataset import Dataset

from pig_monai.data.dicom.files import open_file, read_tags, reading
from pig_monai.data.dicom.geometry import read_directions
from pig_monai.data.dicom.pixels import PIXEL_TAGS, PixelData, find_pixel_data
from pig_monai.data.dicom.placement import OF_SEVERAL_SIZES, PLACEMENT_TAGS, Placement, place_object, place_slices
from pig_monai.data.dicom.values import VALUE_TAGS, Values
from pig_monai.data.volume import UnusableError, Volume, Window

_TAGS = [*PLACEMENT_TAGS, *PIXEL_TAGS, *VALUE_TAGS, "InstanceNumber", "BurnedInAnnotation"]


def open_volume(paths: Sequence[Path]) -> Volume:
    """Open a volume: `open_dicom` of one file, or one file per slice in geometric order.

    Raises:
        UnusableError: see `open_dicom`.
    """
    if len(paths) == 1:
        return open_dicom(paths[0])
    with reading("its headers cannot be read"):
        slices = [_open(path) for path in paths]
        if any(len(one.parts) != 1 for one in slices):
            raise UnusableError(*OF_SEVERAL_SIZES)
        placement = place_slices([one.ds for one in slices])
        frames = [(slices[index], 0) for index in placement.order]
        return _volume(frames, _numbering([data.ds for data, _ in frames]), placement)


def open_dicom(path: Path) -> Volume:
    """Open a file: a Breast Tomosynthesis object, or a mammogram as a volume of one frame.

    Frames are sorted by position. Their values are rescaled, and MONOCHROME1 is inverted, so that larger is
    brighter.

    Raises:
        UnusableError: the header is unusable, or pixel data is missing or incomplete.
    """
    with reading("its header cannot be read"):
        data = _open(path)
        placement = place_object(data.ds, len(data.parts))
        return _volume([(data, index) for index in placement.order], placement.order, placement)


def _open(path: Path) -> PixelData:
    with open_file(path) as file:
        ds = read_tags(file, _TAGS)
        return find_pixel_data(path, file, ds)


def _numbering(slices: Sequence[Dataset]) -> tuple[int, ...] | None:
    """Return the rank of each slice's Instance Number, as viewers list them; None unless each has its own."""
    numbers = [one.get("InstanceNumber") for one in slices]
    if None in numbers or len(set(numbers)) < len(numbers):
        return None
    return tuple(sorted(numbers).index(number) for number in numbers)


def _burnt_in(headers: Sequence[Dataset]) -> tuple[str, ...]:
    """Return the remark about objects that say that text is burnt into their pixels: it may be a name."""
    said = any(str(ds.get("BurnedInAnnotation") or "").strip().upper() == "YES" for ds in headers)
    return ("text is burnt into the pixels (Burned In Annotation): look whether it names the patient",) * said


def _volume(
    frames: Sequence[tuple[PixelData, int]], numbering: tuple[int, ...] | None, placement: Placement
) -> Volume:
    """Put a volume together from its frames' pixel data and stored indices, in geometric order.

    Args:
        frames: pixel data and stored index of each.
        numbering: becomes `Volume.stored`.
        placement: where they lie.
    """
    values = {id(data): Values(data.ds) for data, _ in frames}
    spacing = placement.spacing
    reader = _Reader()

    def frame(index: int) -> np.ndarray:
        data, stored = frames[index]
        with reading("a frame cannot be decoded"):
            return values[id(data)].apply(reader.decode(data, stored), stored)

    def window(index: int) -> Window | None:
        data, stored = frames[index]
        with reading("its display window cannot be read"):
            return values[id(data)].window(stored)

    def window_remarks() -> tuple[str, ...]:
        data, _ = frames[0]
        with reading("its display window cannot be read"):
            remark = values[id(data)].window_remark()
            return (remark,) if remark else ()

    return Volume(
        placement.grid,
        spacing.mm,
        frame,
        window,
        stored=numbering,
        remarks=(*([spacing.remark] if spacing.remark else []), *_burnt_in([data.ds for data, _ in frames])),
        window_remarks=window_remarks,
        directions=read_directions(frames[0][0].ds),
    )


class _Reader:
    """Decodes frames and keeps the last file open: a multi-frame object's is opened once."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.file: BinaryIO | None = None

    def decode(self, data: PixelData, stored: int) -> np.ndarray:
        """Return the stored numbers of a frame (columns, rows)."""
        if self.file is None or self.path != data.path:
            if self.file is not None:
                self.file.close()
            self.file = open_file(data.path)
            self.path = data.path
            weakref.finalize(self, self.file.close)
        return data.decode(stored, self.file).T  # a view: to copy it takes as long as to find the breast in it
