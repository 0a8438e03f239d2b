"""Find the volumes in a folder of DICOM files, and their masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from pig_monai.data.cases import Case, Content, Found, Skipped, list_files, parse_view
from pig_monai.data.dicom import Header, VolumeFiles, group_files, read_header
from pig_monai.data.find_boxes import BoxFiles, OwnBoxes, find_boxes
from pig_monai.data.find_masks import OwnMasks, find_masks, split_masks
from pig_monai.data.images import stem
from pig_monai.data.keys import CaseKey
from pig_monai.data.volume import UnusableError
from pig_monai.errors import PigError


@dataclass(frozen=True)
class LabelFiles:
    """Where the volumes' labels come from.

    Args:
        masks: folder of masks, searched with its subfolders; may be that of the volumes.
        boxes: CSV files of boxes; a volume that has a mask, too, keeps to its mask.
        unlabeled: whether volumes with neither are taken.
    """

    masks: Path | None = None
    boxes: BoxFiles | None = None
    unlabeled: bool = False


def find_volumes(
    folder: Path, labels: LabelFiles, key: CaseKey, dataset_dir: Path, mammograms: bool = False
) -> Found:
    """Find the volumes, and the masks or boxes of each; see `find_masks` and `find_boxes`.

    Args:
        folder: DICOM files, searched with its subfolders; what is no volume is skipped.
        labels: where masks and boxes are.
        key: hashes the ids.
        dataset_dir: left out of the search.
        mammograms: use 2-D mammograms, each a volume of one frame.

    Raises:
        PigError: the folders cannot be used, no volume is found, or no mask or box fits one.
    """
    found = Found()
    files, mask_files = _split_files(folder, labels.masks, dataset_dir, key, found)
    if labels.boxes:  # they may lie among the volumes
        tables = [path.resolve() for path in (labels.boxes.boxes, labels.boxes.file_paths) if path]
        files = [file for file in files if (folder / file).resolve() not in tables]
    headers = read_headers(folder, files, key, found)
    stacks, refused = group_files(headers, mammograms)
    for file, header, why in refused:
        found.skipped.append(_skipped(folder / file, header, why, key))
    if not stacks:
        raise no_volume(folder, found)
    volumes = {volume_name(volume, folder): volume for volume in stacks}
    told = _told(files, headers, stacks, [(file, header) for file, header, _ in refused])
    masks = find_masks(labels.masks, mask_files, volumes, told, key, found) if labels.masks else {}
    boxes = find_boxes(labels.boxes, folder, volumes, key, found) if labels.boxes else {}
    if not masks and not boxes and not labels.unlabeled:
        raise _nothing_fits(folder, labels)
    if masks.keys() & boxes.keys():
        found.warnings.append(f"{len(masks.keys() & boxes.keys())} volumes have masks and boxes: the masks count")
    nameless = sum(volume.header.nameless for volume in stacks)
    if nameless:
        found.warnings.append(
            f"{nameless} volumes have no PatientID: each of their studies counts as a patient of its own, so that "
            "two studies of one person may lie in two folds"
        )
    for name, volume in volumes.items():
        own_boxes = None if name in masks else boxes.get(name)
        try:
            if name not in masks and own_boxes is None and not labels.unlabeled:
                raise UnusableError("it has no mask", "give it a mask with the stem of its file, or leave it out")
            found.cases.append(_case(folder, volume, masks.get(name, OwnMasks()), own_boxes, key))
        except UnusableError as why:
            found.skipped.append(_skipped(folder / volume.files[0], volume.header, why, key))
    return found


def volume_name(volume: VolumeFiles, folder: Path) -> PurePosixPath:
    """Return a volume's path for its mask's name; slices in ``folder`` itself are called after that."""
    return volume.name if volume.name.name else PurePosixPath("..", folder.resolve().name)


def _told(
    files: Sequence[PurePosixPath],
    headers: Mapping[PurePosixPath, Header],
    volumes: Sequence[VolumeFiles],
    refused: Sequence[tuple[PurePosixPath, Header]],
) -> set[str]:
    """Return what a mask may call that has a row of its own already."""
    told = {stem(file) for file in files if file not in headers}
    told |= {name for file, header in refused for name in (stem(file), file.parent.name, header.series)}
    used = {instance for volume in volumes for instance in volume.instances}
    return told | {header.instance for header in headers.values()} - used


def _skipped(path: Path, header: Header, why: UnusableError, key: CaseKey) -> Skipped:
    view = parse_view(header.view, header.laterality)[0]
    patient = header.patient
    return Skipped(key.hash("patient", patient), path, why, view, patient, header.study, header.series)


def no_volume(folder: Path, found: Found) -> PigError:
    """Return the error of a folder without volumes, with the reason of most of its files."""
    what, remedy = f"no Breast Tomosynthesis volume in {folder}", "give a folder with DICOM volumes"
    if found.skipped:
        reasons = Counter((row.why.reason, row.why.remedy) for row in found.skipped)
        (reason, remedy), count = reasons.most_common(1)[0]
        what += f": {count} of {len(found.skipped)} files skipped because: {reason}"
    return PigError(what, remedy)


def _nothing_fits(folder: Path, labels: LabelFiles) -> PigError:
    if labels.masks:
        return PigError(
            f"no mask in {labels.masks} fits a volume in {folder}",
            "name each mask like its DICOM file (its folder, for one file per slice) or its SeriesInstanceUID",
        )
    given = labels.boxes.boxes if labels.boxes else None
    return PigError(f"no box in {given} fits a volume in {folder}", "check that they are of the same set")


def _split_files(
    folder: Path, masks: Path | None, dataset_dir: Path, key: CaseKey, found: Found
) -> tuple[list[PurePosixPath], list[PurePosixPath]]:
    """Return the files that may be volumes, and the masks."""
    if masks is None:
        return list_files(folder, "input", without=[dataset_dir]), []
    if folder.resolve() == masks.resolve():
        own, others = split_masks(folder, list_files(folder, "input", without=[dataset_dir]))
        return others, own
    own, others = split_masks(masks, list_files(masks, "masks", without=[folder, dataset_dir]))
    for file in others:
        why = UnusableError(
            "not a mask", "masks are NIfTI (.nii.gz), NRRD, DICOM segmentations, or pictures of slices"
        )
        found.skipped.append(Skipped(key.hash("file", str(file)), masks / file, why))
    return list_files(folder, "input", without=[masks, dataset_dir]), own


def read_headers(
    folder: Path, files: Sequence[PurePosixPath], key: CaseKey, found: Found
) -> dict[PurePosixPath, Header]:
    """Read the headers of files; what is no supported DICOM object, or a copy of one, gets a row of ``found``.

    Of copies the largest file is taken: a transfer that was cut off left a smaller one.
    """
    headers: dict[PurePosixPath, Header] = {}
    of_instance: dict[str, PurePosixPath] = {}
    for file in tqdm(files, desc="reading headers", unit="file", mininterval=1):
        try:
            header = read_header(folder / file)
        except UnusableError as why:
            found.skipped.append(Skipped(key.hash("file", str(file)), folder / file, why))
            continue
        if header.unsupported:
            found.skipped.append(_skipped(folder / file, header, header.unsupported, key))
            continue
        other = of_instance.get(header.instance)
        if other is not None:
            copy = min(file, other, key=lambda one: (folder / one).stat().st_size)
            what = "volume" if header.plane is None else "slice"
            left_out = UnusableError(
                f"a copy of a {what} that was read already", "leave it out: the larger file is taken"
            )
            found.skipped.append(_skipped(folder / copy, header, left_out, key))
            if copy == file:
                continue
            del headers[other]
        of_instance[header.instance] = file
        headers[file] = header
    return headers


def _case(folder: Path, volume: VolumeFiles, masks: OwnMasks, boxes: OwnBoxes | None, key: CaseKey) -> Case:
    header = volume.header
    paths = tuple(folder / file for file in volume.files)
    if boxes is None:
        view, laterality = parse_view(header.view, header.laterality)
    else:
        view, laterality = parse_view(boxes.view, None)
    # the mask may be mended, the volume never changes under its UID: its size stands for its bytes
    content: list[str | tuple[Path, ...]] = [
        f"{uid}:{path.stat().st_size}" for path, uid in zip(paths, volume.instances, strict=True)
    ]
    content.append(tuple(masks.files))
    if masks.pictures:
        content += [str([number for number, _ in masks.pictures]), tuple(file for _, file in masks.pictures)]
    if boxes:
        content += [boxes.view, str(boxes.boxes)]
    return Case(
        kind="dicom",
        source=paths[0],
        masks=tuple(masks.files),
        patient=header.patient,
        hash=key.hash("patient", header.patient),
        volume=key.hash("volume", volume.identity),
        content=Content(key, tuple(content)),
        view=view,
        laterality=laterality,
        origin=header.origin,
        pictures=tuple(masks.pictures),
        boxes=boxes.boxes.boxes if boxes else (),
        slices=paths if len(paths) > 1 else (),
        study=header.study,
        series=header.series,
    )
