"""Masks and the series they are masks of, to write DICOM segmentations of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pig_monai.data.cases import Found, Skipped, list_files
from pig_monai.data.dicom import VolumeFiles, group_files
from pig_monai.data.find_masks import volume_names
from pig_monai.data.find_volumes import no_volume, read_headers, volume_name
from pig_monai.data.images import NIFTI_SUFFIXES, PICTURE_SUFFIXES, has_suffix, stem
from pig_monai.data.keys import CaseKey
from pig_monai.data.masks import NRRD_SUFFIXES, with_longest_stem
from pig_monai.data.volume import UnusableError
from pig_monai.errors import PigError

_MASK_SUFFIXES = (*NIFTI_SUFFIXES, *NRRD_SUFFIXES, *PICTURE_SUFFIXES)
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_NAMES = "name it like its DICOM file (its folder, for one file per slice) or its SeriesInstanceUID"


@dataclass(frozen=True)
class MaskedSeries:
    """A volume and its masks.

    Args:
        name: what its segmentation's file is called after, with the folder below that of the series.
        files: the object, or one file per slice in geometric order.
        masks: at least one.
    """

    name: PurePosixPath
    files: tuple[Path, ...]
    masks: tuple[Path, ...]


@dataclass(frozen=True)
class Refused:
    """Why of a mask no segmentation is made.

    Args:
        path: of the mask or, where that is at fault, of its series.
        why: the reason and the remedy.
    """

    path: Path
    why: UnusableError


def find_series(series: Path, mask: Path, series_uid: str | None) -> tuple[list[MaskedSeries], list[Refused]]:
    """Find the series and its mask, or of a folder each mask's series.

    A mask belongs to the volume whose file's stem (for one file per slice, whose folder's name) or
    SeriesInstanceUID is its stem, or the longest part of its stem before ``_``, ``-`` or ``.``. A single mask for
    the only series may have any name.

    Args:
        series: a DICOM object, or a folder that is searched with its subfolders.
        mask: NIfTI, NRRD, or for an object of one frame a picture; or a folder of them.
        series_uid: the SeriesInstanceUID to keep to, where the folder holds several.

    Returns:
        volumes with masks, and masks without a volume.

    Raises:
        PigError: there is no volume, or no mask.
    """
    volumes, found = find_series_volumes(series)
    chosen = {name: volume for name, volume in volumes.items() if series_uid in (None, volume.header.series)}
    if not chosen:
        raise PigError(f"no volume in {series} has the SeriesInstanceUID {series_uid}", "give --series_uid of one")
    folder, masks = _list_masks(mask)
    own: Mapping[PurePosixPath, list[PurePosixPath]]
    refused: list[Refused] = []
    if mask.is_file() and len(chosen) == 1:
        own = {next(iter(chosen)): masks}
    else:
        own, refused = _match(folder, masks, volumes, _refusals(found))
    root = series_folder(series)
    pairs = [
        MaskedSeries(
            own_name(name, len(volume.files) == 1),
            tuple(root / file for file in volume.files),
            tuple(folder / file for file in own[name]),
        )
        for name, volume in chosen.items()
        if name in own
    ]
    if series_uid is None:
        return pairs, refused
    if not pairs:
        raise PigError(f"no mask in {mask} is one of the series {series_uid}", _NAMES)
    return pairs, []  # other masks are of other series


def series_folder(series: Path) -> Path:
    """Return the folder that the paths of a series' volumes are relative to."""
    return series.parent if series.is_file() else series


def find_series_volumes(series: Path) -> tuple[dict[PurePosixPath, VolumeFiles], Found]:
    """Return the volumes by what their masks are called after, and why other files are none.

    Raises:
        PigError: there is no volume.
    """
    if series.is_file():
        files = [PurePosixPath(series.name)]
    else:
        files = [file for file in list_files(series, "series") if not has_suffix(file, _MASK_SUFFIXES)]
    found = Found()
    key = CaseKey(b"")  # its hashes are for reports: none is written here
    root = series_folder(series)
    headers = read_headers(root, files, key, found)
    stacks, refused = group_files(headers, mammograms=True)
    for file, header, why in refused:
        rows = [Skipped("", root / name, why) for name in (file, file.parent, PurePosixPath(header.series))]
        found.skipped += rows if not series.is_file() else rows[:1]
    if not stacks:
        raise no_volume(series, found)
    return {volume_name(volume, root): volume for volume in stacks}, found


def _refusals(found: Found) -> dict[str, list[UnusableError]]:
    """Return why what a mask may be called after is no volume."""
    refusals: dict[str, list[UnusableError]] = defaultdict(list)
    for row in found.skipped:
        for name in {row.source.name, stem(row.source)}:
            refusals[name].append(row.why)
    return refusals


def _list_masks(mask: Path) -> tuple[Path, list[PurePosixPath]]:
    """Return the folder of the masks, and their paths in it."""
    if mask.is_file():
        if not has_suffix(mask, _MASK_SUFFIXES):
            raise PigError(f"--mask {mask} is not a mask", "give NIfTI (.nii.gz), NRRD, or a folder of them")
        return mask.parent, [PurePosixPath(mask.name)]
    if not mask.exists():
        raise PigError(f"--mask {mask} does not exist", "give a mask, or a folder of masks")
    masks = [file for file in list_files(mask, "mask") if has_suffix(file, _MASK_SUFFIXES)]
    if not masks:
        raise PigError(f"--mask {mask} holds no mask", "give a folder of NIfTI (.nii.gz) or NRRD files")
    return mask, masks


def _match(
    folder: Path,
    masks: Sequence[PurePosixPath],
    volumes: Mapping[PurePosixPath, VolumeFiles],
    refusals: Mapping[str, Sequence[UnusableError]],
) -> tuple[dict[PurePosixPath, list[PurePosixPath]], list[Refused]]:
    names = volume_names({name: volume.header.series for name, volume in volumes.items()})
    own: dict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
    refused = []
    for mask in masks:
        fitting = with_longest_stem(names, stem(mask))
        if len(fitting) > 1:
            fitting = [name for name in fitting if name.parent == mask.parent]
        if len(fitting) == 1:
            own[fitting[0]].append(mask)
            continue
        whys = with_longest_stem(refusals, stem(mask)) if not fitting else []
        if whys:
            why = UnusableError(f"its series cannot be used: {whys[0].reason}", whys[0].remedy, whys[0].detail)
        else:
            why = UnusableError("the mask fits no volume, or several", _NAMES)
        refused.append(Refused(folder / mask, why))
    return dict(own), refused


def own_name(name: PurePosixPath, is_file: bool) -> PurePosixPath:
    """Return a volume's name without the suffix of DICOM files; a UID or a number is none."""
    if name.parts[0] == "..":  # slices in the very folder that was given
        name = PurePosixPath(name.name)
    return name.with_name(stem(name)) if is_file and has_suffix(name, _DICOM_SUFFIXES) else name
