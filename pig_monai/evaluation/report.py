"""The page to look at: figures, Dice by the lesion's size, the worst and the best slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pig_monai.data.folder import read_label, read_slice
from pig_monai.evaluation.results import TABLE_HEAD, SliceResult
from pig_monai.html import facts, page, paragraph, picture, scatter, table
from pig_monai.pictures import Colour, lay_out, magnification, outlined

TRUTH: Colour = (255, 140, 0)
PREDICTED: Colour = (0, 200, 255)

WORST = 12
BEST = 6
FALSE = 6
TILE = 256
"""Pixels a side of a slice in the report, about."""

RULES = (
    "Dice, IoU, precision, recall and HD95 are of slices with a lesion. Where nothing is predicted on one, "
    "they count with their worst values: 0, and for HD95 the slice's diagonal; the rows “where predicted” "
    "leave such slices out. A lesion is an 8-connected part of the truth; it is hit when one predicted part "
    "has an IoU of at least 0.1 with it. A predicted part that touches no lesion is a false positive. "
    "Intervals are 95 % percentile intervals of a bootstrap over patients. Of the two means the first counts "
    "each slice (or lesion) once, the second each patient."
)


class Gallery:
    """Chooses the slices to show, of which it needs the predicted masks again.

    Args:
        results: of all slices.
    """

    def __init__(self, results: Sequence[SliceResult]) -> None:
        lesion = [i for i, r in enumerate(results) if r.metrics.truth_pixels]
        # slices on which all is missed, by the size of what was missed: no other is worse
        by_dice = sorted(lesion, key=lambda i: (results[i].metrics.dice, -results[i].metrics.truth_pixels))
        self.worst = by_dice[:WORST]
        self.best = by_dice[WORST:][::-1][:BEST]
        free = [i for i, r in enumerate(results) if not r.metrics.truth_pixels and r.metrics.predicted_pixels]
        self.false = sorted(free, key=lambda i: -results[i].metrics.predicted_pixels)[:FALSE]
        self.results = results

    @property
    def shown(self) -> set[int]:
        """Indices of the slices that are shown."""
        return {*self.worst, *self.best, *self.false}

    def parts(self, predictions: Mapping[int, np.ndarray]) -> list[str]:
        """Return the headlines and pictures.

        Args:
            predictions: bool (W, H) by index.
        """
        chosen = {"Worst slices": self.worst, "Best slices": self.best, "Predictions without a lesion": self.false}
        parts: list[str] = []
        for title, indices in chosen.items():
            if indices:
                sheet = lay_out([self._tile(i, predictions[i]) for i in indices], columns=3)
                parts += [f"<h2>{title}</h2>", picture(sheet, self._caption(indices))]
        return parts

    def _tile(self, index: int, prediction: np.ndarray) -> Any:
        entry = self.results[index].entry
        image, truth = read_slice(entry["image"]), read_label(entry["label"])
        scale = magnification(TILE, max(image.shape))
        return outlined(image, [(truth, TRUTH), (prediction, PREDICTED)], scale)

    def _caption(self, indices: Sequence[int]) -> str:
        named = "; ".join(self._said(self.results[i]) for i in indices)
        return f"Truth in orange, prediction in blue, also where both agree. From the top left: {named}."

    def _said(self, result: SliceResult) -> str:
        if not result.metrics.truth_pixels:
            return f"{result.name}, {result.findings.findings} false"
        return f"{result.name}, Dice {result.metrics.dice:.2f}"


def report_page(
    about: Mapping[str, Any],
    notes: Sequence[str],
    rows: Sequence[Sequence[str]],
    gallery: Gallery,
    predictions: Mapping[int, np.ndarray],
) -> str:
    """Return the page.

    Args:
        about: facts by name.
        notes: what a reader must know before believing the figures.
        rows: of the table.
        gallery: the slices to show.
        predictions: theirs, bool (W, H) by index.
    """
    parts = [
        facts(about),
        *(paragraph(f"Note: {note}.", "notice") for note in notes),
        "<h2>Figures</h2>",
        table(TABLE_HEAD, rows),
        paragraph(RULES),
        *_sizes(gallery.results),
        *gallery.parts(predictions),
    ]
    return page("Evaluation of the mass segmenter", parts)


def _sizes(results: Sequence[SliceResult]) -> list[str]:
    """Return Dice by the area of the truth, in mm² where every slice has a spacing."""
    lesion = [r for r in results if r.metrics.truth_pixels]
    if not lesion:
        return []
    spacings = [r.entry.get("spacing") for r in lesion]
    in_mm = all(spacings)
    points = [
        (r.metrics.truth_pixels * (s[0] * s[1] if in_mm and s else 1.0), r.metrics.dice)
        for r, s in zip(lesion, spacings, strict=True)
    ]
    unit = "mm²" if in_mm else "pixels"
    chart = scatter(points, "Dice of each slice with a lesion.", f"area of the truth, {unit} (logarithmic)")
    return ["<h2>Dice by size</h2>", chart]
