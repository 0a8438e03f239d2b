"""The preparation commands: options checked and put together."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm.contrib.logging import logging_redirect_tqdm

from pig_monai.cli import as_bool, as_whole, with_options
from pig_monai.data.cases import Found
from pig_monai.data.find_boxes import BoxFiles
from pig_monai.data.find_images import find_images
from pig_monai.data.find_volumes import LabelFiles, find_volumes
from pig_monai.data.keys import CaseKey, load_key
from pig_monai.data.options import SharedOptions, path
from pig_monai.data.prepare import prepare_dataset
from pig_monai.data.records import Settings, check_folder
from pig_monai.data.selection import Selection
from pig_monai.errors import PigError

_logger = logging.getLogger("pig_monai.data")


@with_options(SharedOptions)
def dicom_to_slices(
    *,
    input: str,
    output: str,
    masks: str | None = None,
    boxes: str | None = None,
    file_paths: str | None = None,
    architectural_distortions: bool = False,
    first_slice: int | None = None,
    every_nth: int = 1,
    largest_per_lesion: bool = False,
    lesion_free: int = 0,
    lesion_free_distance: int = Selection.lesion_free_distance,
    intensity: str = "percentile",
    mammograms: bool = False,
    upright: bool = True,
    name: str = "volumes",
    options: SharedOptions,
) -> None:
    """Turn DICOM volumes (Breast Tomosynthesis, or one file per slice) and their labels into a dataset folder.

    Args:
        input: folder of DICOM files.
        output: the dataset folder.
        masks: folder of NIfTI, NRRD and picture masks, which have the stem of their DICOM file (for one file per
            slice, of its folder) or its SeriesInstanceUID, and of DICOM segmentations, which belong to the series
            that they reference.
        boxes: CSV file of boxes, as BCS-DBT publishes it; they become ellipses.
        file_paths: CSV file that says which file each view of the boxes is.
        architectural_distortions: take the boxes around architectural distortions, too.
        first_slice: number of the first slice in the names of picture masks, 0 or 1; found out where possible.
        every_nth: of the slices with a lesion take every n-th.
        largest_per_lesion: take only the slice on which each lesion is largest.
        lesion_free: so many slices without a lesion of each volume, with an empty label.
        lesion_free_distance: slices that these keep from any lesion, at least.
        intensity: percentile scales percentiles inside the breast to [-1, 1]; window the header's display window.
        mammograms: take 2-D mammograms (Digital Mammography X-Ray), too, each as a volume of one slice.
        upright: turn volumes by 180° whose chest wall is not where their laterality says; those with boxes always
            are.
        name: what the dataset is called.
        options: those that both commands have.
    """
    selection = options.selection(every_nth, largest_per_lesion, lesion_free, lesion_free_distance)
    sources = _label_files(masks, boxes, file_paths, selection.unlabeled)
    flat = as_bool(mammograms, "--mammograms")
    _run(
        lambda case_key, own: find_volumes(Path(str(input)), sources, case_key, own, flat),
        Path(str(output)),
        "data_prep/dicom_to_slices.py",
        str(name),
        options.preprocessing(intensity),
        selection,
        _label_options(architectural_distortions, first_slice),
        options,
        as_bool(upright, "--upright"),
    )


@with_options(SharedOptions)
def images_to_slices(
    *,
    images: str,
    masks: str,
    output: str,
    patient_regex: str | None = None,
    index: str | None = None,
    name: str = "images",
    options: SharedOptions,
) -> None:
    r"""Turn a folder of images (PNG, JPEG, TIFF, NIfTI) and their masks into a dataset folder.

    Args:
        images: folder of images.
        masks: folder of masks; a mask's stem is its image's, or that followed by _, - or . and more.
        output: the dataset folder.
        patient_regex: its group 1 finds the patient in an image's name, as '^(P\d+)_'.
        index: CSV file with the columns image, patient, view and laterality, as available.
        name: what the dataset is called.
        options: those that both commands have.
    """
    selection = options.selection()
    folders = Path(str(images)), Path(str(masks))
    regex, table = None if patient_regex is None else str(patient_regex), path(index)
    _run(
        lambda case_key, own: find_images(*folders, case_key, own, regex, table, selection.unlabeled),
        Path(str(output)),
        "data_prep/images_to_slices.py",
        str(name),
        options.preprocessing(),
        selection,
        {},
        options,
    )


def _run(
    find: Callable[[CaseKey, Path], Found],
    dataset_dir: Path,
    command: str,
    name: str,
    preprocessing: dict[str, Any],
    selection: Selection,
    labels: Mapping[str, Any],
    options: SharedOptions,
    upright: bool = False,
) -> None:
    """Check what both commands have in common, find the cases and prepare them."""
    seed = as_whole(options.seed, "--seed", least=0)
    workers = as_whole(options.workers, "--workers", least=1)
    overwrite = as_bool(options.overwrite, "--overwrite")
    case_key = load_key(dataset_dir, path(options.key))
    settings = Settings(command, name, seed, selection, labels, preprocessing, case_key.hash("key", ""), upright)
    check_folder(dataset_dir, settings, overwrite)  # before the search, which can take long
    with _logging_to(dataset_dir, path(options.log)):
        found = find(case_key, dataset_dir)
        for row in found.skipped:
            _logger.warning(row.line())
        for warning in found.warnings:
            _logger.warning("warning: %s", warning)
        prepare_dataset(dataset_dir, found, settings, workers, overwrite)


def _label_files(masks: str | None, boxes: str | None, file_paths: str | None, unlabeled: bool) -> LabelFiles:
    """Return where the volumes' labels are."""
    if masks is None and boxes is None and not unlabeled:
        raise PigError(
            "--masks is missing", "give the folder of the volumes' masks, or --boxes, or --unlabeled true"
        )
    if file_paths is not None and boxes is None:
        raise PigError("--file_paths is given without --boxes", "give the csv file of boxes, too")
    return LabelFiles(
        path(masks), None if boxes is None else BoxFiles(Path(str(boxes)), path(file_paths)), unlabeled
    )


def _label_options(architectural_distortions: bool, first_slice: int | None) -> dict[str, Any]:
    """Return how masks and boxes are read."""
    if first_slice is not None and as_whole(first_slice, "--first_slice", least=0) > 1:
        raise PigError(f"--first_slice is {first_slice}", "give 0 or 1")
    distortions = as_bool(architectural_distortions, "--architectural_distortions")
    return {"first_slice": first_slice, "architectural_distortions": distortions}


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
