"""What a preparation did: report.json to compute with, report.html to look at. No paths, no times, no identity."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pig_monai.data.folder import Entry, has_lesion, read_label, read_slice
from pig_monai.data.orientation import CHEST_WALL
from pig_monai.files import write_json, write_text
from pig_monai.html import facts, page, paragraph, picture, table
from pig_monai.pictures import contact_sheet

SHOWN = 24
"""Slices in the contact sheet, spread evenly over the dataset."""


def write_report(
    dataset_dir: Path,
    name: str,
    records: Sequence[Mapping[str, Any]],
    entries: Sequence[Entry],
    skipped: Sequence[Mapping[str, str | None]],
    warnings: Sequence[str],
) -> None:
    """Write ``report.json`` and ``report.html`` into a dataset folder.

    Args:
        dataset_dir: the dataset folder; the slices that ``entries`` name exist.
        name: what the dataset is called.
        records: of the converted cases, see `pig_monai.data.prepare`.
        entries: of the datalist.
        skipped: rows with ``case``, ``view``, ``reason`` and ``remedy``.
        warnings: what the run's warnings said.
    """
    report = summarise(records, entries, skipped, warnings)
    write_json(dataset_dir / "report.json", report)
    write_text(dataset_dir / "report.html", _page(name, report, _sheet(dataset_dir, entries)))


def summarise(
    records: Sequence[Mapping[str, Any]],
    entries: Sequence[Entry],
    skipped: Sequence[Mapping[str, str | None]],
    warnings: Sequence[str],
) -> dict[str, Any]:
    """Return what ``report.json`` holds; arguments as for `write_report`.

    Lesion areas are those of the largest slice of each case, in mm², or in pixels where the spacing is unknown.
    """
    spacings = [entry["spacing"] for entry in entries if entry["spacing"]]
    return {
        "converted": len(records),
        "slices": len(entries),
        "patients": len({entry["patient"] for entry in entries}),
        "contents": _counts(content(entry) for entry in entries),
        "skipped": list(skipped),
        "folds": _folds(records, entries),
        "views": _counts(entry["view"] for entry in entries),
        "lateralities": _counts(entry["laterality"] for entry in entries),
        "origins": _counts(entry["origin"] for entry in entries),
        "spacing_mm": [statistics.median(s[axis] for s in spacings) for axis in (0, 1)] if spacings else None,
        "lesion_area": _quartiles([record["lesion_area"] for record in records if record["lesion_area"]]),
        "chest_wall_right": sum("right" in record["chest_wall"] for record in records),
        "chest_wall_unsure": sum(not record["chest_wall"] for record in records),
        "laterality_disagrees": sum(_disagrees(record) for record in records),
        "rotated": sum(record.get("rotated", False) for record in records),
        "warnings": [*warnings, *_unknown_geometry(records, entries), *_boxes(entries), *_remarks(records)],
    }


def content(entry: Entry) -> str:
    """Return ``"lesion"``, ``"lesion_free"`` or ``"unlabelled"``."""
    return "lesion" if has_lesion(entry) else "lesion_free" if "label" in entry else "unlabelled"


def _folds(records: Sequence[Mapping[str, Any]], entries: Sequence[Entry]) -> list[dict[str, Any]]:
    areas: dict[str, float] = {}
    for record in records:
        if record["lesion_area"]:
            areas[record["case"]] = max(areas.get(record["case"], 0.0), record["lesion_area"])
    rows = []
    for fold in sorted({entry["fold"] for entry in entries}):
        own = [entry for entry in entries if entry["fold"] == fold]
        patients = sorted({entry["patient"] for entry in own})
        known = [areas[patient] for patient in patients if patient in areas]
        rows.append(
            {
                "fold": fold,
                "patients": len(patients),
                "with_lesion": len(known),
                "slices": len(own),
                "median_lesion_area": round(statistics.median(known), 3) if known else None,
            }
        )
    return rows


def _counts(values: Iterable[str | None]) -> dict[str, int]:
    return dict(sorted(Counter(value or "unknown" for value in values).items()))


def _quartiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    ordered = sorted(values)
    marks = {"least": 0.0, "lower_quartile": 0.25, "median": 0.5, "upper_quartile": 0.75, "largest": 1.0}
    return {mark: round(ordered[round(share * (len(ordered) - 1))], 3) for mark, share in marks.items()}


def _disagrees(record: Mapping[str, Any]) -> bool:
    """Whether the pixels show the other breast than the source says: left breasts have the chest wall left."""
    expected = CHEST_WALL.get(record["laterality"])
    return bool(expected and record["chest_wall"] and expected not in record["chest_wall"])


def _unknown_geometry(records: Sequence[Mapping[str, Any]], entries: Sequence[Entry]) -> list[str]:
    warnings = []
    by_shape = sum(not record["geometry"] for record in records)
    if by_shape:
        warnings.append(f"{by_shape} cases have no geometry: their masks were matched by shape")
    no_way_back = len({entry["patient"] for entry in entries if "geometry" not in entry})
    if no_way_back:
        warnings.append(
            f"slices of {no_way_back} patients were prepared by an earlier version, which found the breast in "
            "another way and did not keep the geometry: --overwrite true prepares them afresh"
        )
    no_spacing = sum(entry["spacing"] is None for entry in entries)
    if no_spacing:
        warnings.append(f"{no_spacing} slices have no spacing: their lesion areas are in pixels")
    return warnings


def _boxes(entries: Sequence[Entry]) -> list[str]:
    boxes = sum(entry.get("label_kind") == "box" for entry in entries)
    return [f"{boxes} slices are labelled by ellipses in boxes, not by contours"] if boxes else []


def _remarks(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say how volumes were read where that was a choice; records of earlier versions have no remarks."""
    counts = Counter(remark for record in records for remark in record.get("remarks", []))
    return [f"in {count} cases {remark}" for remark, count in sorted(counts.items())]


def _sheet(dataset_dir: Path, entries: Sequence[Entry]) -> Image.Image:
    count = min(SHOWN, len(entries))
    shown = [entries[number * len(entries) // count] for number in range(count)]
    slices = [read_slice(dataset_dir / entry["image"]) for entry in shown]
    masks = [read_label(dataset_dir / entry["label"]) if "label" in entry else None for entry in shown]
    scale = min(1.0, 256 / slices[0].shape[0]) if slices else 1.0
    return contact_sheet(slices, masks, columns=6, scale=scale)


def _page(name: str, report: Mapping[str, Any], sheet: Image.Image) -> str:
    spacing = report["spacing_mm"]
    overview = {
        "converted cases": report["converted"],
        "slices": report["slices"],
        "what they hold": _listed(report["contents"]),
        "patients": report["patients"],
        "skipped": len(report["skipped"]),
        "views": _listed(report["views"]),
        "lateralities": _listed(report["lateralities"]),
        "origin": _listed(report["origins"]),
        "median spacing of the prepared slices": " × ".join(f"{v:.4g}" for v in spacing) + " mm"
        if spacing
        else "unknown",
        "largest lesion area of a case": _listed(report["lesion_area"]),
        "cases with the chest wall on the right": report["chest_wall_right"],
        "cases without a clear side": report["chest_wall_unsure"],
        "cases that show the other side than their header says": report["laterality_disagrees"],
        "cases turned by 180°": report["rotated"],
    }
    folds = [list(row.values()) for row in report["folds"]]
    skipped = [list(row.values()) for row in report["skipped"]]
    parts = [
        facts(overview),
        *(paragraph(f"Warning: {warning}.", "notice") for warning in report["warnings"]),
        "<h2>Folds</h2>",
        table(["fold", "patients", "with a lesion", "slices", "median lesion area"], folds),
        "<h2>Slices</h2>",
        picture(sheet, "Slices from all over the dataset; outlines enclose the masks."),
        "<h2>Skipped</h2>",
        table(["case", "view", "reason", "remedy"], skipped) if skipped else paragraph("Nothing."),
    ]
    return page(f"Dataset: {name}", parts)


def _listed(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in counts.items())
