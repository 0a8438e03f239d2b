"""The preparation commands: options checked and put together."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm.contrib.logging import logging_redirect_tqdm

from pig_monai.cli import as_bool
from pig_monai.data.cases import Found
from pig_monai.data.find_boxes import BoxFiles
from pig_monai.data.find_images import find_images
from pig_monai.data.find_volumes import LabelFiles, find_volumes
from pig_monai.data.keys import CaseKey, load_key
from pig_monai.data.prepare import prepare_dataset
from pig_monai.data.records import Settings, check_folder
from pig_monai.data.selection import Selection
from pig_monai.errors import PigError

_logger = logging.getLogger("pig_monai.data")


def dicom_to_slices(
    *,
    input: str,
    output: str,
    masks: str | None = None,
    size: int = 512,
    aspect: str = "pad",
    crop: bool = True,
    chest_wall: str = "left",
    intensity: str = "percentile",
    low: float | None = None,
    high: float | None = None,
    min_lesion_area: float = 1.0,
    every_nth: int = 1,
    largest_per_lesion: bool = False,
    lesion_free: int = 0,
    lesion_free_distance: int = 5,
    unlabeled: bool = False,
    boxes: str | None = None,
    file_paths: str | None = None,
    architectural_distortions: bool = False,
    first_slice: int | None = None,
    name: str = "volumes",
    seed: int = 0,
    key: str | None = None,
    workers: int = 1,
    log: str | None = None,
    overwrite: bool = False,
) -> None:
    """Turn DICOM volumes (multi-frame Breast Tomosynthesis) and their masks or boxes into a dataset folder.

    Args:
        input: folder of DICOM files.
        output: the dataset folder.
        masks: folder of NIfTI, NRRD and picture masks, which have the stem of their DICOM file or its
            SeriesInstanceUID, and of DICOM segmentations, which belong to the series that they reference.
        size: side of the prepared slices in pixels.
        aspect: pad keeps the aspect; stretch fills the square.
        crop: crop to the breast.
        chest_wall: left mirrors slices whose chest wall is on the right; keep leaves them.
        intensity: percentile scales percentiles inside the breast to [-1, 1]; window the header's display window.
        low: percentile of the pixels inside the breast that becomes -1 (0.5).
        high: percentile of the pixels inside the breast that becomes 1 (99.5).
        min_lesion_area: least mask of a slice in mm² (in pixels where the spacing is unknown).
        every_nth: of the slices with a lesion take every n-th.
        largest_per_lesion: take only the slice on which each lesion is largest.
        lesion_free: so many slices without a lesion of each volume, with an empty label.
        lesion_free_distance: slices that these keep from any lesion, at least.
        unlabeled: take volumes without a mask, too: every fifth of their central slices, without a label.
        boxes: CSV file of boxes, as BCS-DBT publishes it; they become ellipses.
        file_paths: CSV file that says which file each view of the boxes is.
        architectural_distortions: take the boxes around architectural distortions, too.
        first_slice: number of the first slice in the names of picture masks, 0 or 1; found out where possible.
        name: what the dataset is called.
        seed: of the folds.
        key: file with the secret of the case hashes; made beside the dataset folder by default.
        workers: processes.
        log: file that gets the lines about skipped files, with their paths.
        overwrite: prepare afresh what is there.
    """
    scaling = _intensity(_choice(intensity, "intensity", ("percentile", "window")), low, high)
    preprocessing = _preprocessing(size, aspect, crop, chest_wall, scaling)
    selection = _selection(
        min_lesion_area, unlabeled, every_nth, largest_per_lesion, lesion_free, lesion_free_distance
    )
    sources = _label_files(masks, boxes, file_paths, selection.unlabeled)
    _run(
        lambda case_key, own: find_volumes(Path(str(input)), sources, case_key, own),
        "data_prep/dicom_to_slices.py",
        preprocessing,
        selection,
        _label_options(architectural_distortions, first_slice),
        output=output,
        name=name,
        seed=seed,
        key=key,
        workers=workers,
        log=log,
        overwrite=overwrite,
    )


def images_to_slices(
    *,
    images: str,
    masks: str,
    output: str,
    size: int = 512,
    patient_regex: str | None = None,
    index: str | None = None,
    aspect: str = "pad",
    crop: bool = True,
    chest_wall: str = "left",
    low: float | None = None,
    high: float | None = None,
    min_lesion_area: float = 1.0,
    unlabeled: bool = False,
    name: str = "images",
    seed: int = 0,
    key: str | None = None,
    workers: int = 1,
    log: str | None = None,
    overwrite: bool = False,
) -> None:
    r"""Turn a folder of images (PNG, JPEG, TIFF, NIfTI) and their masks into a dataset folder.

    Args:
        images: folder of images.
        masks: folder of masks; a mask's stem is its image's, or that followed by _, - or . and more.
        output: the dataset folder.
        size: side of the prepared slices in pixels.
        patient_regex: its group 1 finds the patient in an image's name, as '^(P\d+)_'.
        index: CSV file with the columns image, patient, view and laterality, as available.
        aspect: pad keeps the aspect; stretch fills the square.
        crop: crop to the breast.
        chest_wall: left mirrors slices whose chest wall is on the right; keep leaves them.
        low: percentile of the pixels inside the breast that becomes -1 (0.5).
        high: percentile of the pixels inside the breast that becomes 1 (99.5).
        min_lesion_area: least mask of a slice in mm² (in pixels where the spacing is unknown).
        unlabeled: take images without a mask, too, without a label.
        name: what the dataset is called.
        seed: of the folds.
        key: file with the secret of the case hashes; made beside the dataset folder by default.
        workers: processes.
        log: file that gets the lines about skipped files, with their paths.
        overwrite: prepare afresh what is there.
    """
    preprocessing = _preprocessing(size, aspect, crop, chest_wall, _intensity("percentile", low, high))
    selection = _selection(min_lesion_area, unlabeled)
    regex = None if patient_regex is None else str(patient_regex)
    table = _path(index)
    _run(
        lambda case_key, own: find_images(
            Path(str(images)), Path(str(masks)), case_key, own, regex, table, selection.unlabeled
        ),
        "data_prep/images_to_slices.py",
        preprocessing,
        selection,
        {},
        output=output,
        name=name,
        seed=seed,
        key=key,
        workers=workers,
        log=log,
        overwrite=overwrite,
    )


def _run(
    find: Callable[[CaseKey, Path], Found],
    command: str,
    preprocessing: dict[str, Any],
    selection: Selection,
    labels: Mapping[str, Any],
    *,
    output: str,
    name: str,
    seed: int,
    key: str | None,
    workers: int,
    log: str | None,
    overwrite: bool,
) -> None:
    """Check what both commands have in common, find the cases and prepare them."""
    dataset_dir = Path(str(output))
    seed = _whole(seed, "seed", least=0)
    workers = _whole(workers, "workers", least=1)
    overwrite = as_bool(overwrite, "--overwrite")
    case_key = load_key(dataset_dir, _path(key))
    settings = Settings(command, str(name), seed, selection, labels, preprocessing, case_key.hash("key", ""))
    check_folder(dataset_dir, settings, overwrite)  # before the search, which can take long
    with _logging_to(dataset_dir, _path(log)):
        found = find(case_key, dataset_dir)
        for row in found.skipped:
            _logger.warning(row.line())
        for warning in found.warnings:
            _logger.warning("warning: %s", warning)
        prepare_dataset(dataset_dir, found, settings, workers, overwrite)


def _path(given: str | None) -> Path | None:
    return None if given is None else Path(str(given))


def _selection(
    min_lesion_area: float,
    unlabeled: bool,
    every_nth: int = 1,
    largest_per_lesion: bool = False,
    lesion_free: int = 0,
    lesion_free_distance: int = 5,
) -> Selection:
    """Return which slices are taken."""
    largest = as_bool(largest_per_lesion, "--largest_per_lesion")
    every = _whole(every_nth, "every_nth", least=1)
    if largest and every > 1:
        raise PigError("both --every_nth and --largest_per_lesion are given", "give one of them")
    return Selection(
        min_lesion_area=_number(min_lesion_area, "min_lesion_area", 0, float("inf")),
        every_nth=every,
        largest_per_lesion=largest,
        lesion_free=_whole(lesion_free, "lesion_free", least=0),
        lesion_free_distance=_whole(lesion_free_distance, "lesion_free_distance", least=1),
        unlabeled=as_bool(unlabeled, "--unlabeled"),
    )


def _label_files(masks: str | None, boxes: str | None, file_paths: str | None, unlabeled: bool) -> LabelFiles:
    """Return where the volumes' labels are."""
    if masks is None and boxes is None and not unlabeled:
        raise PigError(
            "--masks is missing", "give the folder of the volumes' masks, or --boxes, or --unlabeled true"
        )
    if file_paths is not None and boxes is None:
        raise PigError("--file_paths is given without --boxes", "give the csv file of boxes, too")
    return LabelFiles(
        _path(masks), None if boxes is None else BoxFiles(Path(str(boxes)), _path(file_paths)), unlabeled
    )


def _label_options(architectural_distortions: bool, first_slice: int | None) -> dict[str, Any]:
    """Return how masks and boxes are read."""
    if first_slice is not None and _whole(first_slice, "first_slice", least=0) > 1:
        raise PigError(f"--first_slice is {first_slice}", "give 0 or 1")
    distortions = as_bool(architectural_distortions, "--architectural_distortions")
    return {"first_slice": first_slice, "architectural_distortions": distortions}


def _preprocessing(
    size: int, aspect: str, crop: bool, chest_wall: str, intensity: dict[str, Any]
) -> dict[str, Any]:
    """Return the block of settings that the datalist keeps."""
    return {
        "size": _whole(size, "size", least=8),
        "aspect": _choice(aspect, "aspect", ("pad", "stretch")),
        "crop": as_bool(crop, "--crop"),
        "chest_wall": _choice(chest_wall, "chest_wall", ("left", "keep")),
        "intensity": intensity,
    }


def _intensity(kind: str, low: float | None, high: float | None) -> dict[str, Any]:
    if kind == "window":
        if low is not None or high is not None:
            raise PigError("--low and --high are percentiles", "leave them out with --intensity window")
        return {"kind": kind}
    low = _number(0.5 if low is None else low, "low", 0, 100)
    high = _number(99.5 if high is None else high, "high", 0, 100)
    if low >= high:
        raise PigError(f"--low {low:g} is not below --high {high:g}", "give two percentiles, the lower first")
    return {"kind": kind, "low": low, "high": high, "inside_breast": True}


def _choice(value: Any, option: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise PigError(f"--{option} is {value!r}", f"give one of {', '.join(choices)}")
    return str(value)


def _whole(value: Any, option: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise PigError(f"--{option} is {value!r}", f"give a whole number from {least} on")
    return value


def _number(value: Any, option: str, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        limits = f"from {least:g} on" if most == float("inf") else f"from {least:g} to {most:g}"
        raise PigError(f"--{option} is {value!r}", f"give a number {limits}")
    return float(value)


@contextmanager
def _logging_to(dataset_dir: Path, log: Path | None) -> Iterator[None]:
    """Send the log lines, which name source files, to stderr and to ``log``, never into the dataset folder."""
    if log is not None and log.resolve().is_relative_to(dataset_dir.resolve()):
        raise PigError(f"--log {log} lies inside the dataset folder", "keep it elsewhere: it names source files")
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if log is not None:
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            handlers.append(logging.FileHandler(log, encoding="utf-8"))
        except OSError as cause:
            raise PigError(f"--log {log} cannot be written ({cause.strerror})", "give another file") from None
    for handler in handlers:
        _logger.addHandler(handler)
    try:
        with logging_redirect_tqdm([_logger]):
            yield
    finally:
        for handler in handlers:
            _logger.removeHandler(handler)
            handler.close()
