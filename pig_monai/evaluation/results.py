"""What an evaluation found: rows for the slices and lesions, and the summary of them."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pig_monai.data.folder import Entry
from pig_monai.metrics.bootstrap import Estimate, estimate
from pig_monai.metrics.lesions import Findings, match_lesions
from pig_monai.metrics.segmentation import SliceMetrics, measure_slice

Row = dict[str, Any]

WHERE_PREDICTED = "_where_predicted"
"""Ends the names of measures that leave out slices with a lesion on which nothing was predicted."""


@dataclass(frozen=True)
class Measure:
    """A figure of the summary.

    Args:
        title: for people.
        each: what the values are of, in the plural.
        percent: shown in per cent.
    """

    title: str
    each: str
    percent: bool = True


MEASURES = {
    "dice": Measure("Dice", "slices with a lesion"),
    "iou": Measure("IoU", "slices with a lesion"),
    "precision": Measure("precision", "slices with a lesion"),
    "recall": Measure("recall", "slices with a lesion"),
    "hd95_mm": Measure("HD95, mm", "slices with a lesion and a spacing", percent=False),
    "hd95_px": Measure("HD95, pixels", "slices with a lesion", percent=False),
    "precision_where_predicted": Measure("precision where predicted", "slices with a lesion and a prediction"),
    "hd95_mm_where_predicted": Measure(
        "HD95 where predicted, mm", "slices with a lesion, a prediction and a spacing", percent=False
    ),
    "hd95_px_where_predicted": Measure(
        "HD95 where predicted, pixels", "slices with a lesion and a prediction", percent=False
    ),
    "lesions_hit": Measure("lesion sensitivity", "lesions"),
    "patients_hit": Measure("patients with a lesion hit", "patients with a lesion"),
    "false_positives": Measure("false positives a slice", "slices", percent=False),
    "clean_slices": Measure("clean slices (nothing predicted)", "slices without a lesion"),
}
"""What summary.json and the table hold, in this order."""


LESION_COLUMNS = (
    "name", "patient", "view", "slice", "fold", "lesion", "area_px", "area_mm2", "iou", "covered", "hit",
)  # fmt: skip
"""Of lesions.csv, which has no row where no slice has a lesion."""


@dataclass(frozen=True)
class SliceResult:
    """One evaluated slice.

    Args:
        entry: of the datalist.
        metrics: overlap and distance.
        findings: lesions and what was predicted.
    """

    entry: Entry
    metrics: SliceMetrics
    findings: Findings

    @classmethod
    def of(cls, entry: Entry, truth: np.ndarray, prediction: np.ndarray) -> SliceResult:
        """Measure a slice; masks bool (W, H)."""
        metrics = measure_slice(truth, prediction, entry.get("spacing"))
        return cls(entry, metrics, match_lesions(truth, prediction))

    @property
    def name(self) -> str:
        """The slice's file, without folder and suffix."""
        return Path(self.entry["image"]).name.removesuffix(".gz").removesuffix(".nii")

    @property
    def patient(self) -> str:
        """Whose slice it is."""
        return str(self.entry["patient"])

    def row(self) -> Row:
        """Return the slice's row of metrics.csv; None where undefined."""
        m, f = self.metrics, self.findings
        figures = {name: getattr(m, name) for name in ("dice", "iou", "precision", "recall", "hd95_mm", "hd95_px")}
        return {
            **self._which(),
            "truth_px": m.truth_pixels,
            "predicted_px": m.predicted_pixels,
            **{name: None if math.isnan(value) else value for name, value in figures.items()},
            "lesions": len(f.lesions),
            "lesions_hit": sum(lesion.hit for lesion in f.lesions),
            "findings": f.findings,
            "false_positives": f.false_positives,
        }

    def lesion_rows(self) -> list[Row]:
        """Return the lesions' rows of lesions.csv; the area in mm² is None where the spacing is unknown."""
        spacing = self.entry.get("spacing")
        pixel = None if spacing is None else spacing[0] * spacing[1]
        return [
            {
                **self._which(),
                "lesion": number,
                "area_px": lesion.pixels,
                "area_mm2": None if pixel is None else lesion.pixels * pixel,
                "iou": lesion.iou,
                "covered": lesion.covered,
                "hit": int(lesion.hit),
            }
            for number, lesion in enumerate(self.findings.lesions)
        ]

    def _which(self) -> Row:
        known = {key: self.entry.get(key) for key in ("patient", "view", "slice", "fold")}
        return {"name": self.name, **known}


def measures(results: Sequence[SliceResult], seed: int) -> dict[str, Estimate]:
    """Return the estimate of each of `MEASURES`.

    Args:
        results: of the slices.
        seed: of the bootstrap's draws.
    """
    return {name: estimate(*_values(name, results), seed=seed) for name in MEASURES}


def _values(name: str, results: Sequence[SliceResult]) -> tuple[list[float], list[str]]:
    """Return a measure's values and whose each is."""
    pairs: Iterable[tuple[float, str]]
    if name == "lesions_hit":
        pairs = ((lesion.hit, r.patient) for r in results for lesion in r.findings.lesions)
    elif name == "patients_hit":
        hits: dict[str, bool] = defaultdict(bool)
        for r in results:
            if r.findings.lesions:
                hits[r.patient] |= any(lesion.hit for lesion in r.findings.lesions)
        pairs = ((hit, patient) for patient, hit in hits.items())
    elif name == "false_positives":
        pairs = ((r.findings.false_positives, r.patient) for r in results)
    elif name == "clean_slices":
        pairs = ((not r.metrics.predicted_pixels, r.patient) for r in results if not r.metrics.truth_pixels)
    else:
        metric = _whole(name)
        shown = [r for r in results if r.metrics.predicted_pixels or metric == name]
        pairs = ((getattr(r.metrics, metric), r.patient) for r in shown)
    listed = list(pairs)
    return [float(value) for value, _ in listed], [patient for _, patient in listed]


def counts(results: Sequence[SliceResult]) -> dict[str, int]:
    """Return how many slices, patients and lesions there were, and what `notes` tells of them."""
    lesion = [r for r in results if r.metrics.truth_pixels]
    return {
        "slices": len(results),
        "slices_with_lesion": len(lesion),
        "patients": len({r.patient for r in results}),
        "patients_with_lesion": len({r.patient for r in lesion}),
        "lesions": sum(len(r.findings.lesions) for r in results),
        "empty_predictions_on_lesions": sum(not r.metrics.predicted_pixels for r in lesion),
        "slices_without_spacing": sum(r.entry.get("spacing") is None for r in results),
        "labelled_by_boxes": sum(r.entry.get("label_kind") == "box" for r in results),
        "phantom_slices": sum(r.entry.get("origin") == "phantom" for r in results),
    }


def as_csv(rows: Sequence[Row], head: Sequence[str]) -> str:
    """Return rows as CSV; None is an empty cell, numbers have all their digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, head, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


TABLE_HEAD = ["", "mean ± sd", "95 % CI", "of", "mean over patients", "95 % CI", "patients"]


def table_rows(found: Mapping[str, Estimate]) -> list[list[str]]:
    """Return the rows of the readable table: no row of nothing, and no row that only repeats another.

    Where something was predicted on every slice with a lesion, the measures "where predicted" repeat the others.
    """
    repeated = {name for name in found if name.endswith(WHERE_PREDICTED) and found[name] == found[_whole(name)]}
    return [_table_row(MEASURES[name], one) for name, one in found.items() if one.n and name not in repeated]


def _whole(name: str) -> str:
    return name.removesuffix(WHERE_PREDICTED)


def _table_row(measure: Measure, one: Estimate) -> list[str]:
    factor, digits = (100, 1) if measure.percent else (1, 2)

    def say(value: float | None) -> str:
        return "–" if value is None else f"{factor * value:.{digits}f}"

    return [
        measure.title + (", %" if measure.percent else ""),
        f"{say(one.mean)} ± {say(one.sd)}",
        f"{say(one.low)} to {say(one.high)}",
        f"{one.n} {measure.each}",
        say(one.patient_mean),
        f"{say(one.patient_low)} to {say(one.patient_high)}",
        str(one.patients),
    ]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown with columns in line, readable as it is."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [
        "| " + " | ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) + " |" for row in (head, *rows)
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]) + "\n"
