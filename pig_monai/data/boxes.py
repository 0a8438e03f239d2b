"""Boxes around lesions, as BCS-DBT publishes them: a CSV of boxes, and one that says which file each view is.

A box says where a lesion is on one slice, not what its outline is: it becomes an ellipse on some slices, and what
was labelled so is called ``"label_kind": "box"``.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from pig_monai.data.volume import Grid, UnusableError, Volume
from pig_monai.errors import PigError

_KEY_COLUMNS = ("PatientID", "StudyUID", "View")
_NUMBERS = ("Slice", "X", "Y", "Width", "Height", "VolumeSlices", "AD")
_PATH_COLUMNS = ("descriptive_path", "classic_path")


@dataclass(frozen=True, order=True)
class ViewKey:
    """What BCS-DBT calls a volume.

    Args:
        patient: PatientID.
        study: StudyUID, which is the StudyID of the DICOM header (``DBT-S…``).
        view: ``lcc``, ``rmlo1`` …
    """

    patient: str
    study: str
    view: str


@dataclass(frozen=True)
class LesionBox:
    """A box around a lesion.

    Args:
        place: the slice it was drawn on, as the file stores them, from 0.
        x: its first column.
        y: its first row.
        width: columns.
        height: rows.
        distortion: whether it is an architectural distortion, not a mass.
    """

    place: int
    x: int
    y: int
    width: int
    height: int
    distortion: bool

    @property
    def reach(self) -> int:
        """How many slices before and after its own the lesion is taken to be seen on."""
        return int(math.sqrt((self.width + self.height) / 2))


@dataclass(frozen=True)
class ViewBoxes:
    """The boxes of one volume, and how many slices the volume is said to have."""

    slices: int
    boxes: tuple[LesionBox, ...]


def read_boxes(path: Path) -> dict[ViewKey, ViewBoxes]:
    """Read a CSV of boxes.

    Raises:
        PigError: names the file and, where one value is at fault, its line and column.
    """
    boxes: dict[ViewKey, list[LesionBox]] = defaultdict(list)
    slices: dict[ViewKey, int] = {}
    for line, row in _rows(path, "boxes", (*_KEY_COLUMNS, *_NUMBERS)):
        where = f"--boxes {path}, line {line}"
        key = _view_key(row)
        place, x, y, width, height, count, distortion = (_whole(where, row, name) for name in _NUMBERS)
        if not 0 <= place < count or min(x, y) < 0 or min(width, height) < 1:
            raise PigError(f"{where}: the box does not lie in its volume", "mend the row")
        if slices.setdefault(key, count) != count:
            raise PigError(f"{where}: VolumeSlices is not that of the rows above", "mend the row")
        boxes[key].append(LesionBox(place, x, y, width, height, distortion != 0))
    return {key: ViewBoxes(slices[key], tuple(own)) for key, own in boxes.items()}


def read_file_paths(path: Path) -> dict[ViewKey, tuple[PurePosixPath, ...]]:
    """Read the CSV that says which file a view is.

    Returns:
        view → its paths: descriptive, classic or both.

    Raises:
        PigError: it cannot be read or lacks a column.
    """
    files: dict[ViewKey, tuple[PurePosixPath, ...]] = {}
    for line, row in _rows(path, "file_paths", _KEY_COLUMNS):
        paths = tuple(PurePosixPath(row[name].replace("\\", "/")) for name in _PATH_COLUMNS if row.get(name))
        if not paths:
            raise PigError(
                f"--file_paths {path}, line {line} has neither {' nor '.join(_PATH_COLUMNS)}", "mend the row"
            )
        files[_view_key(row)] = paths
    return files


def _rows(path: Path, flag: str, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Read a CSV file: each row with its line; columns are found whatever their case."""
    known = {name.lower(): name for name in (*_KEY_COLUMNS, *_NUMBERS, *_PATH_COLUMNS)}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            head = [known.get(name.strip().lower(), name) for name in next(reader, [])]
            missing = [name for name in columns if name not in head]
            if missing:
                raise PigError(f"--{flag} {path} has no column {missing[0]}", f"it needs {', '.join(columns)}")
            for row in reader:
                if row:
                    yield reader.line_num, dict(zip(head, map(str.strip, row), strict=False))
    except (OSError, UnicodeDecodeError, csv.Error) as cause:
        raise PigError(f"--{flag} {path} cannot be read ({cause})", "give a CSV file in UTF-8") from None


def _view_key(row: Mapping[str, str]) -> ViewKey:
    return ViewKey(row.get("PatientID", ""), row.get("StudyUID", ""), row.get("View", "").lower())


def _whole(where: str, row: Mapping[str, str], name: str) -> int:
    try:
        value = float(row.get(name, ""))
    except ValueError:
        value = math.nan
    if not value.is_integer():
        raise PigError(f"{where}: {name} is {row.get(name)!r}", "give a whole number")
    return int(value)


class BoxMask:
    """Boxes as ellipses on the slices within ``reach`` of their own.

    Args:
        boxes: at least one.
        volume: upright: boxes were drawn after `pig_monai.data.orientation.rotate`.

    Raises:
        UnusableError: a box's centre lies outside the volume.
    """

    def __init__(self, boxes: Sequence[LesionBox], volume: Volume) -> None:
        self.grid: Grid = volume.grid
        columns, rows, frames = volume.grid.size
        for box in boxes:
            x, y = box.x + box.width / 2, box.y + box.height / 2
            if x >= columns or y >= rows or box.place >= frames:
                raise UnusableError(
                    f"a box around ({x:g}, {y:g}) on slice {box.place} lies outside the volume of {self.grid}",
                    "check that the boxes are those of this volume",
                )
        self.boxes = [(volume.frame_stored_at(box.place), box) for box in boxes]

    @property
    def centres(self) -> frozenset[int]:
        """The frames that the boxes were drawn on."""
        return frozenset(centre for centre, _ in self.boxes)

    def frames(self) -> frozenset[int]:
        """Return the frames that hold a box."""
        seen = {centre + step for centre, box in self.boxes for step in range(-box.reach, box.reach + 1)}
        return frozenset(seen & set(range(self.grid.size[2])))

    def mask(self, index: int) -> np.ndarray:
        """Return the mask of frame ``index``: bool (columns, rows); a pixel counts when its centre lies inside."""
        mask = np.zeros(self.grid.size[:2], bool)
        for centre, box in self.boxes:
            if abs(index - centre) <= box.reach:
                inside = mask[box.x : box.x + box.width, box.y : box.y + box.height]
                across = (2 * np.arange(inside.shape[0]) + 1 - box.width) / box.width
                down = (2 * np.arange(inside.shape[1]) + 1 - box.height) / box.height
                inside |= across[:, None] ** 2 + down[None, :] ** 2 <= 1
        return mask
