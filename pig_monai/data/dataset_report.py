"""The report of a preparation: report.json to compute with, report.html to look at.

The page is one file without scripts, which works offline and prints; it is small, whatever the dataset.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pig_monai.data.dataset_slices import look_at_slices
from pig_monai.data.dataset_summary import Records, Rows, content, summarise, without_numbers
from pig_monai.data.folder import Entry
from pig_monai.files import write_json, write_text
from pig_monai.html import codes, facts, figures, histogram, page, paragraph, picture, table, unfolding

LISTED = 200
"""Cases listed for each reason, at most; report.json has them all."""


def write_report(
    dataset_dir: Path,
    name: str,
    things: str,
    records: Records,
    entries: Sequence[Entry],
    skipped: Rows,
    warnings: Sequence[str],
) -> None:
    """Write ``report.json`` and ``report.html`` into a dataset folder.

    Args:
        dataset_dir: the dataset folder; the slices that ``entries`` name exist.
        name: what the dataset is called.
        things: what was converted: ``"volumes"`` or ``"images"``.
        records: of the converted cases, see `pig_monai.data.prepare`.
        entries: of the datalist.
        skipped: rows with ``case``, ``view``, ``reason`` and ``remedy``.
        warnings: what the run's warnings said.
    """
    intensities, tiles = look_at_slices(dataset_dir, entries)
    report = summarise(records, entries, intensities, skipped, warnings)
    write_json(dataset_dir / "report.json", report)
    parts = [
        facts(_overview(report, things)),
        *(paragraph(f"Warning: {warning}.", "notice") for warning in report["warnings"]),
        "<h2>Views and sides</h2>",
        *_views_and_sides(report, things),
        "<h2>Slices</h2>",
        *_contact_sheet(tiles, len(entries), things),
        "<h2>Skipped</h2>",
        *_skipped(report),
        "<h2>Lesions and intensities</h2>",
        *_histograms(report),
        "<h2>Folds</h2>",
        table(
            ["fold", "patients", "with a lesion", "slices", "median lesion area"],
            [list(row.values()) for row in report["folds"]],
            "number",
        ),
    ]
    write_text(dataset_dir / "report.html", page(f"Dataset: {name}", parts))


def _overview(report: Mapping[str, Any], things: str) -> dict[str, Any]:
    spacing = report["spacing_mm"]
    millimetres = " × ".join(f"{v:.4g}" for v in spacing) + " mm" if spacing else "unknown"
    overview = {
        f"{things} converted": report["converted"],
        "files and volumes skipped": len(report["skipped"]),
        "patients": report["patients"],
        "slices": report["slices"],
        "what they hold": _listed(report["contents"]),
        "lesions": report["lesions"],
        "origin": _listed(report["origins"]),
        "median spacing of the prepared slices": millimetres,
        f"largest lesion area of a case, {_unit(report)}": _listed(report["lesion_area"]),
        f"{things} with the chest wall on the right": report["chest_wall_right"],
        f"{things} without a clear side": report["chest_wall_unsure"],
        f"{things} that show the other side than their header says": report["laterality_disagrees"],
        f"{things} turned by 180°": report["rotated"],
    }
    return {fact: value for fact, value in overview.items() if value not in (None, "")}


def _unit(report: Mapping[str, Any]) -> str:
    """Return the unit of areas: mm² where all cases have a spacing, pixels where none has."""
    known = set(report["lesion_diameters"])
    return "mm²" if known <= {"mm"} else "pixels" if known == {"pixels"} else "mm² or pixels"


def _listed(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in counts.items())


def _views_and_sides(report: Mapping[str, Any], things: str) -> list[str]:
    """Return a table of a row for each projection, and the sums."""
    cells = {(row["view"], row["laterality"]): row for row in report["views_and_sides"]}
    views, sides = sorted({view for view, _ in cells}), sorted({side for _, side in cells})
    kinds = ["volumes", "slices", *(["lesions"] if report["lesions"] is not None else [])]
    names = {"volumes": things}
    head = ["view", *(f"{_side(side)}: {names.get(kind, kind)}" for side in sides for kind in kinds)]
    head += [f"all {names.get(kind, kind)}" for kind in kinds]

    def counted(wanted_views: Sequence[str]) -> list[int | None]:
        groups = [[cells.get((view, side), {}) for view in wanted_views] for side in sides]
        groups.append([cell for group in groups for cell in group])
        return [_sum(cell.get(kind) for cell in group) for group in groups for kind in kinds]

    rows = [[view.upper() if view != "unknown" else view, *counted([view])] for view in views]
    if len(rows) > 1:
        rows.append(["all", *counted(views)])
    text = (
        "A lesion is a connected region of the mask, within a slice and from slice to slice, that reaches the "
        "least lesion area on one slice at least. All lesions of a converted case count, whichever slices were "
        "taken; a mask in several pieces counts as several lesions."
    )
    return [table(head, rows, "number"), *([paragraph(text)] if "lesions" in kinds else [])]


def _sum(values: Any) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _side(laterality: str) -> str:
    return {"L": "left", "R": "right"}.get(laterality, "side unknown")


def _contact_sheet(tiles: Sequence[tuple[Entry, Image.Image]], slices: int, things: str) -> list[str]:
    if not tiles:
        return [paragraph("None.")]
    shown = []
    for entry, tile in tiles:
        kind = {"lesion": "", "lesion_free": "no lesion", "unlabelled": "not labelled"}[content(entry)]
        view = (entry["view"] or "view unknown").upper()
        place = "" if things == "images" else f"slice {entry['slice']}"
        caption = ", ".join(filter(None, [view, place, kind, f"case {entry['patient']}"]))
        shown.append(picture(tile, caption))
    text = f"{len(shown)} of {slices} slices, spread evenly over the dataset; outlines enclose the masks."
    return [paragraph(text), figures(shown)]


def _skipped(report: Mapping[str, Any]) -> list[str]:
    """Return what was skipped by its reason, with the remedy; each reason unfolds to its cases."""
    if not report["skipped"]:
        return [paragraph("Nothing.")]
    groups: dict[tuple[str, str], Counter[tuple[str, str]]] = defaultdict(Counter)
    for row in report["skipped"]:
        case = row["case"] + (f" ({row['view']})" if row["view"] else "")
        groups[without_numbers(row["reason"]), row["remedy"]][case, row["reason"]] += 1
    parts = []
    for group in report["skipped_by_reason"]:
        cases = groups[without_numbers(group["reason"]), group["remedy"]]
        parts.append(
            unfolding(f"{group['count']} × {group['reason']}", f"→ {group['remedy']}", _listed_cases(cases))
        )
    text = (
        "By reason, with what to do about it; each unfolds to the cases. Their files are named where the command "
        "ran, on its standard error and in the file of --log."
    )
    return [paragraph(text), *parts]


def _listed_cases(cases: Counter[tuple[str, str]]) -> list[str]:
    """List (case, reason)s: with their reasons where these differ, in their numbers."""
    shown = [
        (f"{case} × {count}" if count > 1 else case, reason) for (case, reason), count in sorted(cases.items())
    ]
    rest = (
        [paragraph(f"… and {len(shown) - LISTED} more: report.json has them all.")] if len(shown) > LISTED else []
    )
    if len({reason for _, reason in cases}) == 1:
        return [codes([case for case, _ in shown[:LISTED]]), *rest]
    return [table(["case", "reason"], shown[:LISTED]), *rest]


def _histograms(report: Mapping[str, Any]) -> list[str]:
    parts = []
    for unit, values in report["lesion_diameters"].items():
        caption = (
            f"Lesions by diameter in {unit}: that of a disc as large as the lesion's largest slice, "
            f"{sum(values['counts'])} lesions."
        )
        parts.append(histogram(values["edges"], values["counts"], caption))
    intensities = report["intensities"]
    if sum(intensities["counts"]):
        share = intensities["share_at_upper_limit"]
        caption = (
            f"Prepared intensities from −1 to 1 in {intensities['slices']} slices, per cent of the pixels; the "
            f"background (−1) is left out. {share:.2%} of the pixels are at the upper limit."
        )
        total = sum(intensities["counts"])
        shares = [round(100 * count / total, 3) for count in intensities["counts"]]
        parts.append(histogram(intensities["edges"], shares, caption))
    return parts or [paragraph("None.")]
