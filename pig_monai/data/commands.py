"""The preparation commands: options checked and put together."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pig_monai.cli import as_bool, as_whole, with_options
from pig_monai.data.cases import Found
from pig_monai.data.find_boxes import BoxFiles
from pig_monai.data.find_images import find_images
from pig_monai.data.find_volumes import LabelFiles, find_volumes
from pig_monai.data.job import OPTION, Job, prepare_dataset
from pig_monai.data.keys import CaseKey, load_key
from pig_monai.data.mapping import CaseMapping
from pig_monai.data.options import SharedOptions, path
from pig_monai.data.outside import refuse_inside
from pig_monai.data.plan import plan_preparation
from pig_monai.data.records import Settings, check_folder
from pig_monai.data.selection import Selection
from pig_monai.data.shards import Shard
from pig_monai.data.tsynth import find_tsynth
from pig_monai.errors import PigError
from pig_monai.locking import check_free
from pig_monai.stopping import stopping_at_once

_logger = logging.getLogger("pig_monai.data")

Find = Callable[[CaseKey, Path], Found]
"""Finds the cases, given the key of their hashes and the dataset folder, in which no case lies."""


@dataclass(frozen=True)
class Dataset:
    """What a command is to make.

    Args:
        folder: the dataset folder.
        command: what makes it, as users type it.
        name: what it is called.
        preprocessing: see `Settings`, likewise the next three.
        selection: which slices are taken.
        labels: how masks and boxes are read.
        upright: whether volumes are turned.
    """

    folder: Path
    command: str
    name: str
    preprocessing: Mapping[str, Any]
    selection: Selection
    labels: Mapping[str, Any] = field(default_factory=dict)
    upright: bool = False

    def settings(self, seed: int, key: CaseKey, shard: str | None) -> Settings:
        """Return what must not change within the folder."""
        return Settings(
            self.command,
            self.name,
            seed,
            self.selection,
            self.labels,
            self.preprocessing,
            key.hash("key", ""),
            self.upright,
            shard,
        )


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
    tsynth: bool = False,
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
        tsynth: the input is T-SYNTH's (reconstruction<N>.raw and .mhd, reconstruction_mask<N>.h5), with its masks.
        upright: turn volumes by 180° whose chest wall is not where their laterality says; those with boxes always
            are.
        name: what the dataset is called.
        options: those that both commands have.
    """
    selection = options.selection(every_nth, largest_per_lesion, lesion_free, lesion_free_distance)
    dataset = Dataset(
        Path(str(output)),
        "data_prep/dicom_to_slices.py",
        str(name),
        options.preprocessing(intensity),
        selection,
        _label_options(architectural_distortions, first_slice),
        as_bool(upright, "--upright"),
    )
    folder, flat = Path(str(input)), as_bool(mammograms, "--mammograms")
    if as_bool(tsynth, "--tsynth"):
        _refuse_beside_tsynth(masks=masks, boxes=boxes, file_paths=file_paths, mammograms=flat or None)
        _run(dataset, partial(find_tsynth, folder, unlabeled=selection.unlabeled), options)
    else:
        labels = _label_files(masks, boxes, file_paths, selection.unlabeled)
        _run(dataset, partial(find_volumes, folder, labels, mammograms=flat), options)


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
    dataset = Dataset(
        Path(str(output)), "data_prep/images_to_slices.py", str(name), options.preprocessing(), selection
    )
    folders = Path(str(images)), Path(str(masks))
    regex, table = None if patient_regex is None else str(patient_regex), path(index)
    _run(
        dataset,
        lambda case_key, own: find_images(*folders, case_key, own, regex, table, selection.unlabeled),
        options,
    )


def _run(dataset: Dataset, find: Find, options: SharedOptions) -> None:
    """Check what both commands have in common, find the cases and prepare them."""
    folder, dry_run, shard = dataset.folder, as_bool(options.dry_run, "--dry_run"), _shard(options)
    strict, overwrite = as_bool(options.strict, "--strict"), as_bool(options.overwrite, "--overwrite")
    workers = as_whole(options.workers, "--workers", least=1)
    mapping = None if options.mapping is None else CaseMapping(Path(str(options.mapping)), folder)
    case_key = load_key(folder, path(options.key), make=shard is not None, write=not dry_run)
    settings = dataset.settings(as_whole(options.seed, "--seed", least=0), case_key, shard)
    job = Job(folder, settings, workers, overwrite, path(options.merge))
    check_folder(folder, settings, overwrite)  # before the search, which can take long
    check_free(folder, OPTION)
    if dry_run:
        plan_preparation(job, find(case_key, folder))
        return
    told = f"stopped: what is finished stays in {folder}; the same command continues"
    with stopping_at_once(told), _logging_to(folder, path(options.log)):
        done = _prepare(job, find(case_key, folder), mapping)
    if strict and done.skipped:
        where = f"see {folder / 'report.html'}" if shard is None else "the lines above name them"
        raise PigError(
            f"{len(done.skipped)} files or volumes were skipped, which --strict does not allow",
            f"the rest is written: {where}",
        )


def _prepare(job: Job, found: Found, mapping: CaseMapping | None) -> Found:
    """Tell what was found, and prepare it."""
    for row in found.skipped:
        _logger.warning(row.line())
    for warning in found.warnings:
        _logger.warning("warning: %s", warning)
    if mapping:  # before the work, so that a mapping which cannot be written is told now
        mapping.write(found)
    done = prepare_dataset(job, found)
    if mapping:
        mapping.write(done)
    return done


def _refuse_beside_tsynth(**others: Any) -> None:
    """Refuse options that T-SYNTH, which has its own masks, leaves no room for."""
    for name, value in others.items():
        if value is not None:
            raise PigError(
                f"both --tsynth and --{name} are given", "leave one of them out: T-SYNTH has its own masks"
            )


def _shard(options: SharedOptions) -> str | None:
    """Return the shard that is wanted; None for a whole dataset."""
    if options.shard is None and options.merge is None:
        return None
    if options.shard is not None and options.merge is not None:
        raise PigError("both --shard and --merge are given", "prepare the shards first, then merge them")
    if options.shard is not None and options.mapping is not None:
        raise PigError("both --shard and --mapping are given", "give --mapping with --merge")
    if options.key is None:
        given = "--merge" if options.shard is None else "--shard"
        raise PigError(f"{given} is given without --key", "give all shards and their merge the same --key FILE")
    return None if options.shard is None else str(Shard.parse(str(options.shard)))


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


class _AboveBars(logging.Handler):
    """Writes to stderr, above the progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        tqdm.write(self.format(record), file=sys.stderr)


@contextmanager
def _logging_to(dataset_dir: Path, log: Path | None) -> Iterator[None]:
    """Send the log lines, which name source files, to stderr and to ``log``, never into the dataset folder."""
    if log is not None:
        refuse_inside("--log", log, dataset_dir, "it names source files")
    handlers: list[logging.Handler] = [_AboveBars()]
    if log is not None:
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            handlers.append(logging.FileHandler(log, encoding="utf-8", errors="backslashreplace"))
        except OSError as cause:
            raise PigError(f"--log {log} cannot be written ({cause.strerror})", "give another file") from None
    for handler in handlers:
        _logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            _logger.removeHandler(handler)
            handler.close()
