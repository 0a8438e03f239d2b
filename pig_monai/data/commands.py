"""The preparation commands: options checked and put together."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm.contrib.logging import logging_redirect_tqdm

from pig_monai.cli import as_bool
from pig_monai.data.cases import Found
from pig_monai.data.find_images import find_images
from pig_monai.data.find_volumes import find_volumes
from pig_monai.data.keys import CaseKey, load_key
from pig_monai.data.prepare import prepare_dataset
from pig_monai.data.records import Settings, check_folder
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
    mammograms: bool = False,
    name: str = "volumes",
    seed: int = 0,
    key: str | None = None,
    workers: int = 1,
    log: str | None = None,
    overwrite: bool = False,
) -> None:
    """Turn DICOM volumes (Breast Tomosynthesis, or one file per slice) and their masks into a dataset folder.

    Args:
        input: folder of DICOM files.
        output: the dataset folder.
        masks: folder of masks; a mask has the stem of its DICOM file (for one file per slice, of its folder) or
            its SeriesInstanceUID.
        size: side of the prepared slices in pixels.
        aspect: pad keeps the aspect; stretch fills the square.
        crop: crop to the breast.
        chest_wall: left mirrors slices whose chest wall is on the right; keep leaves them.
        intensity: percentile scales percentiles inside the breast to [-1, 1]; window the header's display window.
        low: percentile of the pixels inside the breast that becomes -1 (0.5).
        high: percentile of the pixels inside the breast that becomes 1 (99.5).
        min_lesion_area: least mask of a slice in mm² (in pixels where the spacing is unknown).
        mammograms: take 2-D mammograms (Digital Mammography X-Ray), too, each as a volume of one slice.
        name: what the dataset is called.
        seed: of the folds.
        key: file with the secret of the case hashes; made beside the dataset folder by default.
        workers: processes.
        log: file that gets the lines about skipped files, with their paths.
        overwrite: prepare afresh what is there.
    """
    scaling = _intensity(_choice(intensity, "intensity", ("percentile", "window")), low, high)
    preprocessing = _preprocessing(size, aspect, crop, chest_wall, scaling)
    if masks is None:
        raise PigError("--masks is missing", "give the folder of the volumes' masks")
    mammograms = as_bool(mammograms, "--mammograms")
    _run(
        lambda case_key, own: find_volumes(Path(str(input)), Path(str(masks)), case_key, own, mammograms),
        "data_prep/dicom_to_slices.py",
        preprocessing,
        output=output,
        min_lesion_area=min_lesion_area,
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
        name: what the dataset is called.
        seed: of the folds.
        key: file with the secret of the case hashes; made beside the dataset folder by default.
        workers: processes.
        log: file that gets the lines about skipped files, with their paths.
        overwrite: prepare afresh what is there.
    """
    preprocessing = _preprocessing(size, aspect, crop, chest_wall, _intensity("percentile", low, high))
    regex = None if patient_regex is None else str(patient_regex)
    table = None if index is None else Path(str(index))
    _run(
        lambda case_key, own: find_images(Path(str(images)), Path(str(masks)), case_key, own, regex, table),
        "data_prep/images_to_slices.py",
        preprocessing,
        output=output,
        min_lesion_area=min_lesion_area,
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
    *,
    output: str,
    min_lesion_area: float,
    name: str,
    seed: int,
    key: str | None,
    workers: int,
    log: str | None,
    overwrite: bool,
) -> None:
    """Check what both commands have in common, find the cases and prepare them."""
    dataset_dir = Path(str(output))
    area = _number(min_lesion_area, "min_lesion_area", 0, float("inf"))
    seed = _whole(seed, "seed", least=0)
    workers = _whole(workers, "workers", least=1)
    overwrite = as_bool(overwrite, "--overwrite")
    case_key = load_key(dataset_dir, Path(str(key)) if key is not None else None)
    settings = Settings(command, str(name), seed, area, preprocessing, key=case_key.hash("key", ""))
    check_folder(dataset_dir, settings, overwrite)  # before the search, which can take long
    with _logging_to(dataset_dir, Path(str(log)) if log is not None else None):
        found = find(case_key, dataset_dir)
        for row in found.skipped:
            _logger.warning(row.line())
        for warning in found.warnings:
            _logger.warning("warning: %s", warning)
        prepare_dataset(dataset_dir, found, settings, workers, overwrite)


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
