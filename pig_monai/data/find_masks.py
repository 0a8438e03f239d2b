"""Which mask belongs to which volume: by name, by SeriesInstanceUID, or by what a segmentation references."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pig_monai.data.cases import Found, Skipped
from pig_monai.data.dicom import VolumeFiles
from pig_monai.data.images import NIFTI_SUFFIXES, PICTURE_SUFFIXES, has_suffix, stem
from pig_monai.data.keys import CaseKey
from pig_monai.data.masks import NRRD_SUFFIXES
from pig_monai.data.seg import is_segmentation, read_references
from pig_monai.data.volume import UnusableError

Names = Mapping[str, Sequence[PurePosixPath]]
"""Name → the volumes that answer to it, each by its file or, for one file per slice, its folder."""


@dataclass
class OwnMasks:
    """The masks of one volume.

    Args:
        files: masks of the whole volume.
        pictures: (number, file) for masks of single slices.
    """

    files: list[Path] = field(default_factory=list)
    pictures: list[tuple[int, Path]] = field(default_factory=list)


def split_masks(folder: Path, files: Sequence[PurePosixPath]) -> tuple[list[PurePosixPath], list[PurePosixPath]]:
    """Return the files that are masks, by their suffix or as DICOM segmentations, and the others.

    Args:
        folder: what the paths are relative to.
        files: paths.
    """
    suffixes = (*NIFTI_SUFFIXES, *NRRD_SUFFIXES, *PICTURE_SUFFIXES)
    masks = {file for file in files if has_suffix(file, suffixes) or is_segmentation(folder / file)}
    return [file for file in files if file in masks], [file for file in files if file not in masks]


def find_masks(
    folder: Path,
    masks: Sequence[PurePosixPath],
    volumes: Mapping[PurePosixPath, VolumeFiles],
    refused: Collection[str],
    key: CaseKey,
    found: Found,
) -> dict[PurePosixPath, OwnMasks]:
    """Find each mask's volume.

    A NIfTI or NRRD mask or a picture answers to the stem or the name of the volume's file (of its folder, for one
    file per slice) or to its SeriesInstanceUID; of several such volumes, the one in the mask's own folder wins. A
    picture of one slice adds ``_<number>`` to that, or lies in a folder of that name, its own name ending in the
    number. A DICOM segmentation belongs to the series that it references, and within it to the volume of the
    instances.

    Args:
        folder: what the paths of ``masks`` are relative to.
        masks: from `split_masks`.
        volumes: each by what its masks are called after, relative to the folder of the volumes.
        refused: stems, SeriesInstanceUIDs and SOPInstanceUIDs of what cannot be used; its masks are passed over,
            since its own row says why.
        key: hashes paths.
        found: gets a row for each mask that fits no volume, or several.

    Returns:
        the volume → its masks.
    """
    names = volume_names({name: volume.header.series for name, volume in volumes.items()})
    own: dict[PurePosixPath, OwnMasks] = defaultdict(OwnMasks)
    for mask in masks:
        try:
            if has_suffix(mask, PICTURE_SUFFIXES):
                volume, number = _volume_of_picture(mask, names)
            else:
                volume, number = _volume_of_file(folder / mask, mask, names, volumes, refused), None
        except UnusableError as why:
            if not _meant_by(folder, mask).intersection(refused):
                found.skipped.append(Skipped(key.hash("file", str(mask)), folder / mask, why))
            continue
        if number is None:
            own[volume].files.append(folder / mask)
        else:
            own[volume].pictures.append((number, folder / mask))
    return dict(own)


def volume_names(series: Mapping[PurePosixPath, str]) -> dict[str, list[PurePosixPath]]:
    """Return name → the volumes that answer to it.

    Args:
        series: volume → SeriesInstanceUID.
    """
    volumes: dict[str, list[PurePosixPath]] = defaultdict(list)
    for file, uid in series.items():
        for name in {stem(file), file.name, uid}:  # DICOM files often have no suffix, or a number for one
            volumes[name].append(file)
    return dict(volumes)


def named(name: str, parent: PurePosixPath, names: Names) -> list[PurePosixPath]:
    """Return the volumes that answer to ``name``; of several, those in the folder ``parent``."""
    fitting = list(names.get(name, []))
    return fitting if len(fitting) < 2 else [file for file in fitting if file.parent == parent]


def _meant_by(folder: Path, mask: PurePosixPath) -> set[str]:
    """Return whatever a mask may call its volume."""
    called = {stem(mask), *(name for name, _, _ in _numbered(mask))}
    if not has_suffix(mask, (*NIFTI_SUFFIXES, *NRRD_SUFFIXES, *PICTURE_SUFFIXES)):
        with suppress(UnusableError):
            references = read_references(folder / mask)
            called |= references.instances or references.series
    return called


def _volume_of_file(
    path: Path,
    mask: PurePosixPath,
    names: Names,
    volumes: Mapping[PurePosixPath, VolumeFiles],
    refused: Collection[str],
) -> PurePosixPath:
    if has_suffix(mask, (*NIFTI_SUFFIXES, *NRRD_SUFFIXES)):
        return _only(named(stem(mask), mask.parent, names))
    references = read_references(path)
    fitting = [name for name, volume in volumes.items() if volume.header.series in references.series]
    if len(fitting) > 1 or references.instances.intersection(refused):  # the views of a study may share a series
        fitting = [name for name in fitting if references.instances.intersection(volumes[name].instances)]
        return _only(fitting)
    if not fitting:
        raise UnusableError(
            "the segmentation references a series that is not among the volumes",
            "put that series into the folder that --input names, or leave the segmentation out",
        )
    return fitting[0]


def _volume_of_picture(picture: PurePosixPath, names: Names) -> tuple[PurePosixPath, int | None]:
    """Return a picture's volume and its number, None where it has the very stem of the volume."""
    whole = named(stem(picture), picture.parent, names)
    if whole:
        return _only(whole), None
    numbers = {file: number for name, number, at in _numbered(picture) for file in named(name, at, names)}
    volume = _only(list(numbers))
    return volume, numbers[volume]


def _numbered(picture: PurePosixPath) -> list[tuple[str, int, PurePosixPath]]:
    """Return the ways to read a picture's path: the volume's name, the number, and the folder of the mask."""
    found = re.fullmatch(r"(.*?)(\d+)", stem(picture))
    if found is None:
        return []
    in_folder = (picture.parent.name, int(found[2]), picture.parent.parent)
    return [in_folder, (found[1][:-1], int(found[2]), picture.parent)] if found[1].endswith("_") else [in_folder]


def _only(fitting: Sequence[PurePosixPath]) -> PurePosixPath:
    if len(fitting) != 1:
        raise UnusableError(
            "the mask fits no volume, or several", "name it like its DICOM file or its SeriesInstanceUID"
        )
    return fitting[0]
