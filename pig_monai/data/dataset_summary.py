"""What a preparation did, in figures: the content of report.json. No paths, no times, no identity."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pig_monai.data.folder import Entry, has_lesion
from pig_monai.data.orientation import CHEST_WALL

_NUMBER = re.compile(r"[-+]?\d[\d.]*(?:e[-+]?\d+)?")

Records = Sequence[Mapping[str, Any]]
Rows = Sequence[Mapping[str, str | None]]


def summarise(
    records: Records,
    entries: Sequence[Entry],
    intensities: Mapping[str, Any],
    skipped: Rows,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """Return what ``report.json`` holds.

    Areas are in mm², or in pixels where the spacing is unknown. ``lesion_area`` is about the largest slice of each
    case. A lesion is a region of the mask that is connected in three dimensions, within a slice and from slice to
    slice, across edges and corners, and reaches ``min_lesion_area`` on one slice at least. Lesions count whether
    or not each of their slices was taken.

    Args:
        records: of the converted cases, see `pig_monai.data.prepare`.
        entries: of the datalist.
        intensities: from `pig_monai.data.dataset_slices.look_at_slices`.
        skipped: rows with ``case``, ``view``, ``reason`` and ``remedy``.
        warnings: what the run's warnings said.
    """
    spacings = [entry["spacing"] for entry in entries if entry["spacing"]]
    return {
        "converted": len(records),
        "slices": len(entries),
        "lesions": _lesions(records),
        "patients": len({entry["patient"] for entry in entries}),
        "contents": _counts(content(entry) for entry in entries),
        "skipped": list(skipped),
        "skipped_by_reason": _by_reason(skipped),
        "folds": _folds(records, entries),
        "views": _counts(entry["view"] for entry in entries),
        "lateralities": _counts(entry["laterality"] for entry in entries),
        "views_and_sides": _views_and_sides(records),
        "origins": _counts(entry["origin"] for entry in entries),
        "spacing_mm": [statistics.median(s[axis] for s in spacings) for axis in (0, 1)] if spacings else None,
        "lesion_area": _quartiles([record["lesion_area"] for record in records if record["lesion_area"]]),
        "lesion_diameters": _diameters(records),
        "intensities": intensities,
        "chest_wall_right": sum("right" in record["chest_wall"] for record in records),
        "chest_wall_unsure": sum(not record["chest_wall"] for record in records),
        "laterality_disagrees": sum(_disagrees(record) for record in records),
        "rotated": sum(record.get("rotated", False) for record in records),
        "warnings": [*warnings, *_unknown_geometry(records, entries), *_boxes(entries), *_remarks(records)],
    }


def content(entry: Entry) -> str:
    """Return ``"lesion"``, ``"lesion_free"`` or ``"unlabelled"``."""
    return "lesion" if has_lesion(entry) else "lesion_free" if "label" in entry else "unlabelled"


def _lesions(records: Records) -> int | None:
    """Count the lesions; None where no case says how many it has: nobody labelled them, or an earlier version."""
    known = [len(record["lesions"]) for record in records if record.get("lesions") is not None]
    return sum(known) if known else None


def _by_reason(skipped: Rows) -> list[dict[str, Any]]:
    """Group what was skipped, the most frequent reason first; numbers in a reason make no group of their own."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in skipped:
        reason = str(row["reason"])
        groups[without_numbers(reason), str(row["remedy"])].append(reason)
    rows = [
        {"reason": reasons[0] if len(set(reasons)) == 1 else kind, "remedy": remedy, "count": len(reasons)}
        for (kind, remedy), reasons in groups.items()
    ]
    return sorted(rows, key=lambda row: (-row["count"], row["reason"], row["remedy"]))


def without_numbers(reason: str) -> str:
    """Return a reason's wording, which is the same for all cases of a kind."""
    return _NUMBER.sub("…", reason)


def _views_and_sides(records: Records) -> list[dict[str, Any]]:
    """Count volumes, slices and lesions by projection and side; ``lesions`` as `_lesions` counts them."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        side, view = record["laterality"], record["entries"][0]["view"]
        projection = view[1:] if view and side and view.startswith(side.lower()) else view
        groups[projection or "unknown", side or "unknown"].append(record)
    return [
        {
            "view": view,
            "laterality": side,
            "volumes": len(own),
            "slices": sum(len(record["entries"]) for record in own),
            "lesions": _lesions(own),
        }
        for (view, side), own in sorted(groups.items())
    ]


def _diameters(records: Records) -> dict[str, Any]:
    """Return histograms of lesions by the diameter of a disc as large as their largest slice: in mm, in pixels."""
    histograms = {}
    for unit, known in (("mm", True), ("pixels", False)):
        own = [record for record in records if (record["entries"][0]["spacing"] is not None) == known]
        areas = [area for record in own for area in record.get("lesions") or []]
        if areas:
            diameters = 2 * np.sqrt(np.array(areas) / math.pi)
            edges = _round_edges(float(diameters.max()))
            counts, _ = np.histogram(diameters, edges)
            histograms[unit] = {"edges": edges, "counts": counts.tolist()}
    return histograms


def _round_edges(top: float, most: int = 20) -> list[float]:
    """Return at most ``most`` equal bins from 0 to beyond ``top``, 1, 2 or 5 times a power of ten wide."""
    widths = (digit * 10.0**power for power in range(-3, 12) for digit in (1, 2, 5))
    width = next(w for w in widths if top < w * most)
    return [round(number * width, 6) for number in range(int(top // width) + 2)]


def _folds(records: Records, entries: Sequence[Entry]) -> list[dict[str, Any]]:
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


def _unknown_geometry(records: Records, entries: Sequence[Entry]) -> list[str]:
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


def _remarks(records: Records) -> list[str]:
    """Say how volumes were read where that was a choice; records of earlier versions have no remarks."""
    counts = Counter(remark for record in records for remark in record.get("remarks", []))
    return [f"in {count} cases {remark}" for remark, count in sorted(counts.items())]
