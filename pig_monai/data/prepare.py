"""From cases to a dataset folder: each slice with enough mask is prepared and written; the datalist comes last."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from tqdm import tqdm

from pig_monai.data.cases import Case, Found, Skipped, name_cases
from pig_monai.data.dataset_report import write_report
from pig_monai.data.dicom import open_volume
from pig_monai.data.folder import DATALIST, Entry, write_datalist, write_label, write_slice
from pig_monai.data.folds import assign_folds
from pig_monai.data.images import open_image
from pig_monai.data.masks import open_masks
from pig_monai.data.records import (
    Record,
    Settings,
    claim_folder,
    is_done,
    read_records,
    refuse_changed,
    write_record,
    writing,
)
from pig_monai.data.transforms import prepare_slices
from pig_monai.data.volume import MaskSource, UnusableError, Volume
from pig_monai.errors import PigError
from pig_monai.files import read_json

logger = logging.getLogger(__name__)


def prepare_dataset(dataset_dir: Path, found: Found, settings: Settings, workers: int, overwrite: bool) -> None:
    """Prepare every case and write the dataset folder.

    Args:
        dataset_dir: the dataset folder; made where absent.
        found: the cases, and what is already known to be skipped.
        settings: must be those of the folder's earlier runs.
        workers: processes; the result does not depend on it.
        overwrite: remove what an earlier run left, instead of continuing it.

    Raises:
        PigError: other settings or other data under the same name; nothing could be prepared; the folder cannot
            be written; a worker died.
    """
    with writing(dataset_dir):
        claim_folder(dataset_dir, settings, overwrite)
        records = read_records(dataset_dir)
        cases = name_cases(found.cases, {record["volume"]: stem for stem, record in records.items()})
        todo = [case for case in cases if not is_done(case, records, dataset_dir)]
        refuse_changed(todo, records, dataset_dir)
        skipped = list(found.skipped)
        for case, outcome in _prepare_all(todo, settings, dataset_dir, workers):
            if isinstance(outcome, UnusableError):
                skipped.append(Skipped(case.hash, case.source, outcome, case.view))
                logger.warning(skipped[-1].line())
            else:
                records[case.stem] = outcome
        _finish(dataset_dir, Found(cases, skipped, found.warnings), records, settings)


def _finish(dataset_dir: Path, found: Found, records: Mapping[str, Record], settings: Settings) -> None:
    """Deal the folds, then write the report and, last, the datalist."""
    folds = _folds(dataset_dir, found.cases, records, settings.seed)
    ordered = [record for _, record in sorted(records.items())]
    entries = [entry | {"fold": folds[record["case"]]} for record in ordered for entry in record["entries"]]
    rows = sorted((one.row() for one in found.skipped), key=lambda row: [str(cell) for cell in row.values()])
    write_report(dataset_dir, settings.name, ordered, entries, rows, found.warnings)
    if not entries:
        raise PigError(
            f"no slice could be prepared for {dataset_dir}", f"see the reasons in {dataset_dir / 'report.html'}"
        )
    write_datalist(
        dataset_dir,
        name=settings.name,
        command=settings.command,
        seed=settings.seed,
        preprocessing=settings.preprocessing,
        entries=entries,
    )


def _prepare_all(
    cases: Sequence[Case], settings: Settings, dataset_dir: Path, workers: int
) -> Iterator[tuple[Case, Record | UnusableError]]:
    """Prepare the cases in this process or in several, as they finish."""
    with tqdm(total=len(cases), desc="preparing", unit="case", mininterval=1, disable=not cases) as progress:
        if workers <= 1:
            for case in cases:
                yield case, prepare_case(case, settings, dataset_dir)
                progress.update()
            return
        # a fresh interpreter for each worker: a fork would inherit torch's threads
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            waiting = {pool.submit(prepare_case, case, settings, dataset_dir): case for case in cases}
            try:
                for future in as_completed(waiting):
                    yield waiting[future], future.result()
                    progress.update()
            except BrokenProcessPool:
                raise PigError(
                    "a worker process died, perhaps for want of memory",
                    "run the same command again with fewer --workers: it continues",
                ) from None
            finally:
                pool.shutdown(cancel_futures=True)


def prepare_case(case: Case, settings: Settings, dataset_dir: Path) -> Record | UnusableError:
    """Prepare and write the slices of one case, then its record.

    Returns:
        the record, or why the case is skipped; then none of its files is left.
    """
    written: list[Path] = []
    try:
        record = _prepare_slices(case, settings, dataset_dir, written)
    except UnusableError as reason:
        for path in written:
            path.unlink(missing_ok=True)
        return reason
    write_record(dataset_dir, case.stem, record)
    return record


def _prepare_slices(case: Case, settings: Settings, dataset_dir: Path, written: list[Path]) -> Record:
    volume, masks = _open(case)
    transforms = prepare_slices(settings.preprocessing)
    sx, sy = volume.spacing or (1.0, 1.0)
    entries: list[Entry] = []
    largest = 0.0
    sides = set()
    for index in range(volume.grid.size[2]):
        mask = masks.mask(index)
        area = float(np.count_nonzero(mask)) * sx * sy
        largest = max(largest, area)
        if area == 0 or area < settings.min_lesion_area:
            continue
        prepared = transforms(_raw_slice(volume, index, mask, settings))
        label = np.asarray(prepared["label"][0]) > 0
        if not label.any():  # it lies outside the breast, so the crop removed it
            continue
        spacing = _spacing(prepared["image"]) if volume.spacing else None
        entry = _entry(case, index, spacing)
        written += [dataset_dir / entry["image"], dataset_dir / entry["label"]]
        write_slice(written[-2], np.asarray(prepared["image"][0]), spacing)
        write_label(written[-1], label, spacing)
        entries.append(entry)
        sides.add(prepared["chest_wall"])
    windowed = settings.preprocessing["intensity"]["kind"] == "window"
    if not entries:
        raise _nothing_to_take(largest, settings.min_lesion_area, "mm²" if volume.spacing else "pixels")
    return {
        "case": case.hash,
        "volume": case.volume,
        "content": case.content,
        "lesion_area": round(largest, 6),
        "chest_wall": sorted(sides),
        "laterality": case.laterality,
        "geometry": volume.grid.affine is not None,
        "remarks": [*volume.remarks, *(volume.window_remarks() if windowed else ())],
        "entries": entries,
    }


def _nothing_to_take(largest: float, least: float, unit: str) -> UnusableError:
    if largest == 0:
        return UnusableError("its mask is empty", "check the mask; only slices with a lesion are taken")
    if largest < least:
        reason = f"no slice holds {least:g} {unit} of mask, at most {largest:.3g}"
        return UnusableError(reason, "check the mask, or lower --min_lesion_area")
    return UnusableError("its mask lies outside the breast", "check the mask, or give --crop false")


def _open(case: Case) -> tuple[Volume, MaskSource]:
    volume = open_volume(case.slices or [case.source]) if case.kind == "dicom" else open_image(case.source)
    return volume, open_masks(case.masks, volume.grid, volumetric=case.kind == "dicom")


def _raw_slice(volume: Volume, index: int, mask: np.ndarray, settings: Settings) -> dict[str, Any]:
    """Return frame ``index`` as the transforms take it."""
    frame = volume.frame(index)
    if not np.fmax.reduce(frame, axis=None) > np.fmin.reduce(frame, axis=None):  # NaN, all padding, is blank too
        raise UnusableError(f"frame {index} is blank", "check the export")
    sx, sy = volume.spacing or (1.0, 1.0)
    affine = torch.diag(torch.tensor([-sx, -sy, 1.0, 1.0], dtype=torch.float64))
    data: dict[str, Any] = {
        "image": MetaTensor(np.ascontiguousarray(frame)[None], affine=affine),
        "label": MetaTensor(np.ascontiguousarray(mask, dtype=np.float32)[None], affine=affine),
    }
    if settings.preprocessing["intensity"]["kind"] == "window":
        window = volume.window(index)
        if window is None:
            raise UnusableError(f"frame {index} has no display window", "use --intensity percentile")
        data["window"] = window
    return data


def _spacing(image: MetaTensor) -> list[float]:
    return [round(float(v), 6) for v in torch.linalg.vector_norm(image.affine[:3, :2], dim=0)]


def _entry(case: Case, index: int, spacing: list[float] | None) -> Entry:
    name = f"{case.stem}_{index:03d}.nii.gz"
    return {
        "image": f"images/{name}",
        "label": f"labels/{name}",
        "patient": case.hash,
        "view": case.view,
        "laterality": case.laterality,
        "slice": index,
        "fold": -1,
        "spacing": spacing,
        "origin": case.origin,
    }


def _folds(dataset_dir: Path, cases: Sequence[Case], records: Mapping[str, Record], seed: int) -> dict[str, int]:
    """Return case hash → fold: kept where the datalist has one, dealt for the rest."""
    existing: dict[str, int] = {}
    if (dataset_dir / DATALIST).is_file():
        former = read_json(dataset_dir / DATALIST, "give --overwrite true")
        existing = {entry["patient"]: entry["fold"] for entry in former["training"]}
    raw = {case.hash: case.patient for case in cases}
    sizes: dict[str, float] = {}
    hashes: dict[str, str] = {}
    for record in records.values():
        # a patient of an earlier run whose files are not at hand keeps its fold and needs no raw id
        patient = str(raw.get(record["case"], record["case"]))
        hashes[patient] = record["case"]
        sizes[patient] = max(sizes.get(patient, 0.0), record["lesion_area"])
    kept = {patient: existing[case] for patient, case in hashes.items() if case in existing}
    return {hashes[patient]: fold for patient, fold in assign_folds(sizes, seed, kept).items()}
