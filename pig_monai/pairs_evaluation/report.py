"""The page to look at: the answers in short, pictures, masks, what may be copied, and every figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from pig_monai.choosing import spread_evenly
from pig_monai.data.folder import Entry
from pig_monai.features.shape import STATISTICS
from pig_monai.features.space import MASK, FeatureSpace
from pig_monai.html import facts, figures, page, paragraph, picture, probability, short, steps, table, unfolding
from pig_monai.pairs_evaluation.answers import ANSWERS_HEAD, answers, in_brackets
from pig_monai.pairs_evaluation.compare import Comparison
from pig_monai.pairs_evaluation.distances import METRICS, SPLITS
from pig_monai.pairs_evaluation.figures import COLUMNS, EQUAL, GENERATED, HELDOUT, NEAREST, SPLIT, Figure, find
from pig_monai.pairs_evaluation.samples import Pairs, Samples, read_batches
from pig_monai.pictures import lay_out, magnification, tile

SHOWN = 24
"""Slices of a contact sheet."""

SHEET_TILE, GALLERY_TILE = 128, 160
"""Pixels a side of a slice, about."""

BINS = 20
COLOURS = {"trained on": "#357", "generated": "#c60"}
SAMPLES = {
    GENERATED: "generated",
    EQUAL: "generated, as many as real ones below",
    HELDOUT: "real, held out",
    SPLIT: "real, any patients against the others",
}

HOW_TO_READ = (
    "All figures compare slices with the real ones that the generator was trained on. The rows of real slices "
    "show what a perfect generator would get: of those that it never saw, and of patients chosen at random "
    f"(mean of {SPLITS} choices, and where 95 % of them lie). Compare them with the row of as many generated "
    "ones, since every figure but the kernel distance depends on how many slices there are. The Fréchet and the "
    "kernel distance are 0 for equal distributions. Precision: share of the slices that lie among the real "
    "ones. Coverage: share of the real slices that have one of them near. Recall and density are the older "
    "relative of coverage and the finer one of precision."
)

ABOUT_COPIES = (
    "The generated slices that are nearest to one training patient, by the pixels. From left to right: generated, "
    "the nearest training slice and, where somebody was held out, the nearest slice of a patient whom the "
    "generator never saw. The relative distance is that to the nearest training patient, divided by the mean of "
    "those to the next ones; what falls below the limit is a suspected copy. Look for the same vessels and edges "
    "in the first two pictures."
)


def report_page(
    about: Mapping[str, Any],
    notes: Sequence[str],
    samples: Samples,
    comparison: Comparison,
    found: Sequence[Figure],
    spaces: Sequence[FeatureSpace],
    pairs: Pairs,
) -> str:
    """Return the page.

    Args:
        about: facts by name.
        notes: what a reader must know before believing the figures.
        samples: what was measured.
        comparison: what was found.
        found: all figures.
        spaces: the feature spaces, the one to read first at the front.
        pairs: what was evaluated.
    """
    outlined = ", their masks outlined" if pairs.have_masks else ""
    parts = [
        facts(about),
        *(paragraph(f"Note: {note}.", "notice") for note in notes),
        "<h2>In short</h2>",
        table(ANSWERS_HEAD, answers(found, spaces, comparison)),
        "<h2>Generated and real</h2>",
        picture(_sheet(samples.generated.entries, pairs), f"Generated slices{outlined}."),
        picture(_sheet(samples.training.entries, pairs), "Real slices that the generator was trained on."),
        "<h2>Distances and neighbourhoods</h2>",
        table(["features", "part", "slices", "n", *_TABLE], _distance_rows(found, spaces), "number"),
        paragraph(HOW_TO_READ),
        *(_masks(samples, comparison, found) if comparison.masks else []),
        "<h2>Nearest training slices</h2>",
        *_gallery(samples, comparison, pairs),
        "<h2>All figures</h2>",
        unfolding("As in metrics.csv, with their notes", f"{len(found)} rows", [_all_figures(found)]),
    ]
    return page(f"Generated {pairs.kind} against real slices", parts)


def _sheet(entries: Sequence[Entry], pairs: Pairs) -> Image.Image:
    return lay_out(_tiles(spread_evenly(entries, SHOWN), pairs, SHEET_TILE), columns=8)


def _tiles(entries: Sequence[Entry], pairs: Pairs, wanted: int) -> list[Image.Image]:
    """Draw slices; real ones without outlines, too, where generated ones have none to be told by."""
    shown = entries if pairs.have_masks else [{"image": entry["image"]} for entry in entries]
    return slice_tiles(shown, pairs.size, wanted)


def slice_tiles(entries: Sequence[Entry], size: int, wanted: int) -> list[Image.Image]:
    """Draw slices, the masks of those that have one outlined.

    Args:
        entries: with absolute paths; each with a label, or none.
        size: pixels a side to which slices are brought, as for a training.
        wanted: pixels a side of a picture, about.
    """
    scale = magnification(wanted, size)
    return [
        tile(image, mask, scale)
        for _, slices, masks in read_batches(entries, size)
        for image, mask in zip(slices, [None] * len(slices) if masks is None else masks, strict=True)
    ]


_TABLE = ("Fréchet distance", "kernel distance", "precision", "recall", "density", "coverage")


def _distance_rows(found: Sequence[Figure], spaces: Sequence[FeatureSpace]) -> list[list[str]]:
    rows = []
    for space in (space for space in spaces if space.distances):
        for region in space.regions:
            for sample, title in SAMPLES.items():
                given = [find(found, metric, space.name, region, sample) for metric in METRICS]
                if given[0] is not None:
                    values = ["–" if f is None or f.value is None else short(f.value) for f in given]
                    sd = find(found, "kernel_sd", space.name, region, sample)
                    if sd is not None and sd.value is not None:
                        values[1] += f" ± {short(sd.value)}"
                    values[0] += in_brackets(given[0])
                    named = [space.title, region] if sample == GENERATED else ["", ""]  # once is enough
                    rows.append([*named, title, str(given[0].n_generated), *values])
    return rows


_MASK_HEAD = [
    "",
    "median, trained on",
    "median, generated",
    "difference (0 to 1)",
    "held-out masks differ by",
    "p (Holm; slices as if independent)",
]


def _masks(samples: Samples, comparison: Comparison, found: Sequence[Figure]) -> list[str]:
    return [
        "<h2>Masks</h2>",
        table(_MASK_HEAD, _mask_rows(comparison, found)),
        figures(_mask_charts(samples), "wide"),
    ]


def _mask_rows(comparison: Comparison, found: Sequence[Figure]) -> list[list[str]]:
    rows = []
    for name, test in comparison.masks.items():
        statistic, heldout = STATISTICS[name], find(found, "ks", name, MASK, HELDOUT)
        rows.append(
            [
                statistic.title,
                *(f"{statistic.factor * median:.3g}" for median in test.medians),
                f"{test.statistic:.2f}",
                "–" if heldout is None or heldout.value is None else f"{heldout.value:.2f}",
                probability(test.p_holm),
            ]
        )
    return rows


def _mask_charts(samples: Samples) -> list[str]:
    charts = []
    for name, statistic in STATISTICS.items():
        values = {
            "trained on": statistic.factor * samples.training.statistics[name],
            "generated": statistic.factor * samples.generated.statistics[name],
        }
        together = np.concatenate(list(values.values()))
        low, high = float(together.min()), float(together.max())
        edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
        series = {
            kind: ((np.histogram(v, edges)[0] / len(v)).tolist(), COLOURS[kind]) for kind, v in values.items()
        }
        caption = f"{statistic.title}: share of the masks by value"
        charts.append(steps(edges.tolist(), series, caption, width=440))
    return charts


def _gallery(samples: Samples, comparison: Comparison, pairs: Pairs) -> list[str]:
    """Return the generated slices nearest to one training patient by their pixels, beside the real ones."""
    copies = comparison.copies.get("pixels")
    if copies is None:
        return [paragraph("Too few training patients to look for copies.")]
    chosen = copies.order[:NEAREST]
    columns = [
        [samples.generated.entries[i] for i in chosen],
        [samples.training.entries[copies.nearest[i]] for i in chosen],
    ]
    if samples.heldout is not None and copies.nearest_heldout is not None:
        columns.append([samples.heldout.entries[i] for i in copies.nearest_heldout[chosen]])
    tiles = [_tiles(column, pairs, GALLERY_TILE) for column in columns]
    shown = []
    for number, i in enumerate(chosen):
        verdict = "suspected copy, " if copies.suspected[i] else ""
        caption = (
            f"{verdict}relative distance {copies.relative[i]:.2f} (limit {copies.limit:.2f}): "
            f"generated slice {samples.generated.entries[i].get('index', i)} and one of patient "
            f"{samples.training.patients[copies.nearest[i]]}"
        )
        shown.append(picture(lay_out([column[number] for column in tiles], columns=3), caption))
    edges = np.linspace(0, float(max(copies.relative.max(), copies.usual.max())), BINS + 1)
    series = {
        "real, other patients": ((np.histogram(copies.usual, edges)[0] / len(copies.usual)).tolist(), "#357"),
        "generated": ((np.histogram(copies.relative, edges)[0] / len(copies.relative)).tolist(), "#c60"),
    }
    chart = steps(edges.tolist(), series, "Relative distance by the pixels: share of the slices.")
    return [paragraph(ABOUT_COPIES), figures(shown, "wide"), chart]


def _all_figures(found: Sequence[Figure]) -> str:
    rows = []
    for figure in found:
        row = figure.row()
        row["value"] = "refused" if figure.value is None else short(figure.value)
        row |= {end: "" if row[end] is None else short(row[end]) for end in ("low", "high")}
        rows.append([row[name] for name in COLUMNS])
    return table([name.replace("_", " ") for name in COLUMNS], rows)
