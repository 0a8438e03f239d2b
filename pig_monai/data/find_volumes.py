"""Find the volumes in a folder of DICOM files, and their masks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from pig_monai.data.cases import Case, Found, Skipped, digest_files, list_files, parse_view
from pig_monai.data.dicom import Header, VolumeFiles, group_files, read_header
from pig_monai.data.images import NIFTI_SUFFIXES, has_suffix, stem
from pig_monai.data.keys import CaseKey
from pig_monai.data.volume import UnusableError
from pig_monai.errors import PigError


def find_volumes(folder: Path, masks: Path, key: CaseKey, dataset_dir: Path, mammograms: bool = False) -> Found:
    """Find the volumes that have a mask.

    A volume's mask is a NIfTI file whose stem is the volume's SeriesInstanceUID or the stem of its DICOM file (of
    its folder, for one file per slice); where several volumes fit, the one in the mask's own folder wins. Several
    masks of a volume are merged.

    Args:
        folder: DICOM files, searched with its subfolders; what is no volume is skipped.
        masks: folder of masks, searched likewise; may be the same folder.
        key: hashes the ids.
        dataset_dir: left out of the search.
        mammograms: use 2-D mammograms, each a volume of one frame.

    Raises:
        PigError: the folders cannot be used, no volume is found, or no mask fits one.
    """
    found = Found()
    files, mask_files = _split_files(folder, masks, dataset_dir, key, found)
    headers = _read_headers(folder, files, key, found)
    volumes, refused = group_files(headers, mammograms)
    for file, header, why in refused:
        found.skipped.append(_skipped(folder / file, header, why, key))
    if not volumes:
        raise _no_volume(folder, found)
    names = {_name(volume, folder): volume for volume in volumes}
    matched, unmatched = match_volume_masks({name: v.header.series for name, v in names.items()}, mask_files)
    if not matched:
        raise PigError(
            f"no mask in {masks} fits a volume in {folder}",
            "name each mask (.nii.gz) like its DICOM file (its folder, for one file per slice) or its "
            "SeriesInstanceUID",
        )
    told = {stem(file) for file in files if file not in headers}  # their own rows say why
    told |= {name for file, header, _ in refused for name in (stem(file), file.parent.name, header.series)}
    for mask in (mask for mask in unmatched if stem(mask) not in told):
        why = UnusableError(
            "the mask fits no volume, or several", "name it like its DICOM file or its SeriesInstanceUID"
        )
        found.skipped.append(Skipped(key.hash("file", str(mask)), masks / mask, why))
    for name, volume in names.items():
        own = [masks / mask for mask in matched.get(name, [])]
        try:
            found.cases.append(_case(folder, volume, own, key))
        except UnusableError as why:
            found.skipped.append(_skipped(folder / volume.files[0], volume.header, why, key))
    return found


def _name(volume: VolumeFiles, folder: Path) -> PurePosixPath:
    """Return a volume's path for its mask's name; slices in ``folder`` itself are called after that."""
    return volume.name if volume.name.name else PurePosixPath("..", folder.resolve().name)


def _skipped(path: Path, header: Header, why: UnusableError, key: CaseKey) -> Skipped:
    view = parse_view(header.view, header.laterality)[0]
    return Skipped(key.hash("patient", header.patient), path, why, view)


def _no_volume(folder: Path, found: Found) -> PigError:
    """Return the error of a folder without volumes, with the reason of most of its files."""
    what, remedy = f"no Breast Tomosynthesis volume in {folder}", "give a folder with DICOM volumes"
    if found.skipped:
        reasons = Counter((row.why.reason, row.why.remedy) for row in found.skipped)
        (reason, remedy), count = reasons.most_common(1)[0]
        what += f": {count} of {len(found.skipped)} files skipped because: {reason}"
    return PigError(what, remedy)


def _split_files(
    folder: Path, masks: Path, dataset_dir: Path, key: CaseKey, found: Found
) -> tuple[list[PurePosixPath], list[PurePosixPath]]:
    """Return the files that may be DICOM, and the masks."""
    if folder.resolve() == masks.resolve():
        both = list_files(folder, "input", without=[dataset_dir])
        nifti = [file for file in both if has_suffix(file, NIFTI_SUFFIXES)]
        return [file for file in both if file not in set(nifti)], nifti
    mask_files = list_files(masks, "masks", without=[folder, dataset_dir])
    for file in mask_files:
        if not has_suffix(file, NIFTI_SUFFIXES):
            why = UnusableError("not a NIfTI mask", "save it as .nii.gz on the volume's grid")
            found.skipped.append(Skipped(key.hash("file", str(file)), masks / file, why))
    nifti = [file for file in mask_files if has_suffix(file, NIFTI_SUFFIXES)]
    return list_files(folder, "input", without=[masks, dataset_dir]), nifti


def _read_headers(
    folder: Path, files: Sequence[PurePosixPath], key: CaseKey, found: Found
) -> dict[PurePosixPath, Header]:
    headers: dict[PurePosixPath, Header] = {}
    seen: set[str] = set()
    for file in tqdm(files, desc="reading headers", unit="file", mininterval=1):
        case = key.hash("file", str(file))
        try:
            header = read_header(folder / file)
            case = key.hash("patient", header.patient)
            if header.unsupported:
                raise header.unsupported
            if header.instance in seen:
                what = "volume" if header.plane is None else "slice"
                raise UnusableError(f"a copy of a {what} that was read already", "leave one of them out")
        except UnusableError as why:
            found.skipped.append(Skipped(case, folder / file, why))
            continue
        seen.add(header.instance)
        headers[file] = header
    return headers


def match_volume_masks(
    series: Mapping[PurePosixPath, str], masks: Sequence[PurePosixPath]
) -> tuple[dict[PurePosixPath, list[PurePosixPath]], list[PurePosixPath]]:
    """Find each mask's volume by name.

    Args:
        series: DICOM file → SeriesInstanceUID.
        masks: mask files; both are relative to their folders.

    Returns:
        DICOM file → its masks in order, and the masks that fit no volume or several.
    """
    volumes: dict[str, list[PurePosixPath]] = defaultdict(list)
    for file, uid in series.items():
        for name in {stem(file), file.name, uid}:  # DICOM files often have no suffix, or a number for one
            volumes[name].append(file)
    matched: dict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
    unmatched = []
    for mask in masks:
        candidates = volumes.get(stem(mask), [])
        if len(candidates) > 1:
            candidates = [file for file in candidates if file.parent == mask.parent]
        if len(candidates) == 1:
            matched[candidates[0]].append(mask)
        else:
            unmatched.append(mask)
    return dict(matched), unmatched


def _case(folder: Path, volume: VolumeFiles, masks: list[Path], key: CaseKey) -> Case:
    if not masks:
        raise UnusableError("it has no mask", "give it a mask with the stem of its file, or leave it out")
    header = volume.header
    paths = tuple(folder / file for file in volume.files)
    view, laterality = parse_view(header.view, header.laterality)
    # the mask may be mended, the volume never changes under its UID: its size stands for its bytes
    content = [f"{uid}:{path.stat().st_size}" for path, uid in zip(paths, volume.instances, strict=True)]
    return Case(
        kind="dicom",
        source=paths[0],
        masks=tuple(masks),
        patient=header.patient,
        hash=key.hash("patient", header.patient),
        volume=key.hash("volume", volume.identity),
        content=key.hash("content", ":".join([*content, digest_files(masks)])),
        view=view,
        laterality=laterality,
        origin=header.origin,
        slices=paths if len(paths) > 1 else (),
    )
