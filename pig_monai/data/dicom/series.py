"""Volumes among DICOM files: a file of many frames, or many files of one slice each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np

from pig_monai.data.dicom.geometry import check_gaps
from pig_monai.data.dicom.headers import ASK_FOR_BTO, MAMMOGRAMS, Header
from pig_monai.data.volume import UnusableError


@dataclass(frozen=True)
class VolumeFiles:
    """The files of one volume.

    Args:
        name: what a mask is called after: the file or, for one file per slice, its folder.
        files: in geometric order.
        header: of the first; its ``frames`` are those of the volume.
        identity: tells this volume from all others.
        instances: SOPInstanceUID of each file.
    """

    name: PurePosixPath
    files: tuple[PurePosixPath, ...]
    header: Header
    identity: str
    instances: tuple[str, ...]


def group_files(
    headers: Mapping[PurePosixPath, Header], mammograms: bool
) -> tuple[list[VolumeFiles], list[tuple[PurePosixPath, Header, UnusableError]]]:
    """Find the volumes that files belong to.

    Slices are one volume when they have one series, size, orientation, spacing, view and side: a series that holds
    two stacks becomes two volumes.

    Args:
        headers: of files that are supported, by their paths.
        mammograms: use 2-D mammograms, each a volume of one frame.

    Returns:
        the volumes in the order of their first files; and what cannot be used: a file, its header and the reason.
    """
    volumes: list[VolumeFiles] = []
    refused: list[tuple[PurePosixPath, Header, UnusableError]] = []
    stacks: dict[tuple, list[PurePosixPath]] = defaultdict(list)
    singles: dict[PurePosixPath, Header] = {}
    for file, header in headers.items():
        if header.plane is None:
            singles[file] = header
        else:
            key = (header.patient, header.series, header.sop_class, header.view, header.laterality)
            stacks[*key, header.plane.grid].append(file)
    names = _names(list(stacks.values()))
    for (stack, files), name in zip(stacks.items(), names, strict=True):
        ordered = sorted(files, key=lambda file: (_height(headers[file]), file))
        header = headers[ordered[0]]
        if len(files) == 1 and header.sop_class in MAMMOGRAMS:
            singles[files[0]] = header
            continue
        try:
            _check_stack([headers[file] for file in ordered])
        except UnusableError as why:
            refused.append((ordered[0], header, why))
            continue
        instances = tuple(headers[file].instance for file in ordered)
        header = replace(header, frames=len(ordered))
        volumes.append(VolumeFiles(name, tuple(ordered), header, repr(stack), instances))
    for file, header in singles.items():
        if header.sop_class in MAMMOGRAMS and not mammograms:
            remedy = "give --mammograms true to use mammograms as well"
            refused.append((file, header, UnusableError("a two-dimensional mammogram", remedy)))
        else:
            volumes.append(VolumeFiles(file, (file,), header, header.instance, (header.instance,)))
    return sorted(volumes, key=lambda volume: volume.files[0]), refused


def _height(header: Header) -> float:
    return header.plane.height if header.plane else 0.0


def _check_stack(headers: Sequence[Header]) -> None:
    if len(headers) == 1:
        raise UnusableError(
            "a single slice, without the others of its stack", f"export the series whole, or {ASK_FOR_BTO}"
        )
    check_gaps(np.diff([_height(header) for header in headers]))


def _names(stacks: Sequence[Sequence[PurePosixPath]]) -> list[PurePosixPath]:
    """Name each stack after its folder; where a folder holds several, after its first file."""
    folders = [_folder(files) for files in stacks]
    return [
        folder if folders.count(folder) == 1 else min(files) for folder, files in zip(folders, stacks, strict=True)
    ]


def _folder(files: Sequence[PurePosixPath]) -> PurePosixPath:
    """Return the folder that holds all of some files."""
    return next(folder for folder in files[0].parents if all(file.is_relative_to(folder) for file in files))
