"""From cases to a dataset folder: the slices to take are prepared and written; the datalist comes last."""

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
from pig_monai.data.fitting import fitted_size
from pig_monai.data.folder import DATALIST, Entry, write_datalist, write_label, write_slice
from pig_monai.data.folds import assign_folds
from pig_monai.data.geometry import Geometry
from pig_monai.data.open_case import OpenCase, open_case, turn_upright
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
from pig_monai.data.selection import Selection, lesion_free_slices, lesion_slices, survey, unlabelled_slices
from pig_monai.data.transforms import prepare_slices
from pig_monai.data.volume import UnusableError
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
    opened = open_case(case, settings.labels)
    transforms = prepare_slices(settings.preprocessing)
    wanted, largest = _slices_to_take(opened, settings.selection)
    # images stay as they are: public sets are often mirrored to one side, whatever breast they show
    if wanted and case.kind == "dicom":
        opened = turn_upright(opened, case.laterality, [index for index, _ in wanted], settings.upright)
    volume = opened.volume
    entries: list[Entry] = []
    sides = set()
    for index, content in wanted:
        mask = opened.masks.mask(index) if opened.masks else None
        raw = _raw_slice(opened, index, mask, settings)
        if raw is None and content == "lesion":
            raise UnusableError(f"frame {index} is blank", "check the export")
        prepared = transforms(raw) if raw else None
        if prepared is None or (content == "lesion" and not prepared["label"].any()):
            continue  # blank, or the crop to the breast removed the lesion
        spacing = _spacing(prepared["image"]) if volume.spacing else None
        entry = _entry(case, index, spacing, _label_keys(case, index, content, opened))
        if opened.rotated:
            entry["rotated"] = True
        entry["geometry"] = _geometry(opened, prepared, settings.preprocessing).to_entry()
        written += [dataset_dir / entry[key] for key in ("image", "label") if key in entry]
        write_slice(dataset_dir / entry["image"], np.asarray(prepared["image"][0]), spacing)
        if "label" in entry:
            write_label(dataset_dir / entry["label"], np.asarray(prepared["label"][0]), spacing)
        entries.append(entry)
        sides.add(prepared["chest_wall"])
    windowed = settings.preprocessing["intensity"]["kind"] == "window"
    if not entries:
        raise _nothing_to_take(largest, settings.selection.min_lesion_area, "mm²" if volume.spacing else "pixels")
    return {
        "case": case.hash,
        "volume": case.volume,
        "content": case.content,
        "lesion_area": None if largest is None else round(largest, 6),
        "chest_wall": sorted(sides - {None}),
        "laterality": case.laterality,
        "geometry": volume.grid.affine is not None,
        "rotated": opened.rotated,
        "remarks": [*volume.remarks, *opened.remarks, *(volume.window_remarks() if windowed else ())],
        "entries": entries,
    }


def _slices_to_take(opened: OpenCase, selection: Selection) -> tuple[list[tuple[int, str]], float | None]:
    """Return (frame, "lesion" | "lesion_free" | "unlabelled") for each, and the largest lesion area of a slice.

    The area is None where nobody labelled the volume.
    """
    volume = opened.volume
    frames = volume.grid.size[2]
    if opened.masks is None:
        return [(index, "unlabelled") for index in unlabelled_slices(frames)], None
    found = survey(opened.masks, frames, volume.spacing or (1.0, 1.0), selection.largest_per_lesion)
    with_lesion = [(index, "lesion") for index in lesion_slices(found, selection, opened.centres)]
    without = [(index, "lesion_free") for index in lesion_free_slices(found, selection, opened.also_lesion)]
    return sorted(with_lesion + without), max(found.areas)


def _nothing_to_take(largest: float | None, least: float, unit: str) -> UnusableError:
    if largest is None:
        return UnusableError("its slices are blank", "check the export")
    if largest == 0:
        return UnusableError("its mask is empty", "check the mask; only slices with a lesion are taken")
    if largest < least:
        reason = f"no slice holds {least:g} {unit} of mask, at most {largest:.3g}"
        return UnusableError(reason, "check the mask, or lower --min_lesion_area")
    return UnusableError("its mask lies outside the breast", "check the mask, or give --crop false")


def _raw_slice(opened: OpenCase, index: int, mask: np.ndarray | None, settings: Settings) -> dict[str, Any] | None:
    """Return frame ``index`` as the transforms take it; None where it is blank."""
    volume = opened.volume
    frame = volume.frame(index)
    if not np.fmax.reduce(frame, axis=None) > np.fmin.reduce(frame, axis=None):  # NaN, all padding, is blank too
        return None
    sx, sy = volume.spacing or (1.0, 1.0)
    affine = torch.diag(torch.tensor([-sx, -sy, 1.0, 1.0], dtype=torch.float64))
    data: dict[str, Any] = {"image": MetaTensor(np.ascontiguousarray(frame)[None], affine=affine)}
    if mask is not None:
        data["label"] = MetaTensor(np.ascontiguousarray(mask)[None], affine=affine)
    if opened.chest_wall != "each":
        data["chest_wall"] = opened.chest_wall
    if settings.preprocessing["intensity"]["kind"] == "window":
        window = volume.window(index)
        if window is None:
            raise UnusableError(f"frame {index} has no display window", "use --intensity percentile")
        data["window"] = window
    return data


def _spacing(image: MetaTensor) -> list[float]:
    return [round(float(v), 6) for v in torch.linalg.vector_norm(image.affine[:3, :2], dim=0)]


def _file_name(case: Case, index: int) -> str:
    return f"{case.stem}_{index:03d}.nii.gz"


def _label_keys(case: Case, index: int, content: str, opened: OpenCase) -> Entry:
    """Return what an entry says of its label; what goes without saying (a contour of a lesion) is left out."""
    if content == "unlabelled":
        return {}
    entry: Entry = {"label": f"labels/{_file_name(case, index)}"}
    if content == "lesion_free":
        entry["lesion"] = False
    if opened.label_kind != "contour":
        entry["label_kind"] = opened.label_kind
    return entry


def _geometry(opened: OpenCase, prepared: Mapping[str, Any], preprocessing: Mapping[str, Any]) -> Geometry:
    width, height = opened.volume.grid.size[:2]
    x0, y0, x1, y1 = crop = prepared.get("crop", (0, 0, width, height))
    fitted = fitted_size((x1 - x0, y1 - y0), preprocessing["size"], preprocessing["aspect"])
    return Geometry((width, height), opened.rotated, crop, prepared.get("mirrored", False), fitted)


def _entry(case: Case, index: int, spacing: list[float] | None, label: Entry) -> Entry:
    return {
        "image": f"images/{_file_name(case, index)}",
        **label,
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
    sizes: dict[str, float | None] = {}
    hashes: dict[str, str] = {}
    for record in records.values():
        # a patient of an earlier run whose files are not at hand keeps its fold and needs no raw id
        patient = str(raw.get(record["case"], record["case"]))
        hashes[patient] = record["case"]
        known = [area for area in (sizes.get(patient), record["lesion_area"]) if area is not None]
        sizes[patient] = max(known, default=None)
    kept = {patient: existing[case] for patient, case in hashes.items() if case in existing}
    return {hashes[patient]: fold for patient, fold in assign_folds(sizes, seed, kept).items()}
