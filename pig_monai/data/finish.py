"""The end of a preparation: folds, report and, last, the datalist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pig_monai.data.cases import Case, Found
from pig_monai.data.dataset_report import write_report
from pig_monai.data.folder import DATALIST, write_datalist
from pig_monai.data.folds import assign_folds
from pig_monai.data.records import Record, Settings, remove_unrecorded
from pig_monai.errors import PigError
from pig_monai.files import read_json


def finish(dataset_dir: Path, found: Found, records: Mapping[str, Record], settings: Settings) -> None:
    """Deal the folds, then write the report and, last, the datalist.

    Args:
        dataset_dir: the dataset folder, in which nothing is under way.
        found: all cases, whatever was skipped, and warnings.
        records: of the converted cases, by stem.
        settings: of the preparation.

    Raises:
        PigError: there is no slice.
    """
    remove_unrecorded(dataset_dir, records.values())
    folds = _folds(dataset_dir, found.cases, records, settings.seed)
    ordered = [record for _, record in sorted(records.items())]
    entries = [entry | {"fold": folds[record["case"]]} for record in ordered for entry in record["entries"]]
    rows = sorted((one.row() for one in found.skipped), key=lambda row: [str(cell) for cell in row.values()])
    write_report(dataset_dir, settings.name, settings.things, ordered, entries, rows, found.warnings)
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
