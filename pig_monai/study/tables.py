"""The paper's tables: as numbers for programs, and as text for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pig_monai.evaluation.results import MEASURES
from pig_monai.features.space import LESION, MASK, SLICE
from pig_monai.html import short
from pig_monai.metrics.spread import Spread
from pig_monai.study.results import OVERLAPS, ArmResult, Difference, Key, MethodResult, Results

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A figure of table 1.

    Args:
        name: in the CSV file, where ``<name>``, ``<name>_sd`` and ``<name>_real`` are columns.
        title: for people.
        key: which figure of an evaluation of pairs.
        percent: shown in per cent.
        spread: whether a standard deviation and the figure of real slices belong beside it.
    """

    name: str
    title: str
    key: Key
    percent: bool = False
    spread: bool = True


COLUMNS = (
    Column("frechet_inception", "Fréchet, Inception", ("frechet", "inception", SLICE)),
    Column("kernel_inception", "kernel, Inception", ("kernel", "inception", SLICE)),
    Column("frechet_dinov2", "Fréchet, DINOv2", ("frechet", "dinov2", SLICE)),
    Column("frechet_texture", "Fréchet, texture", ("frechet", "texture", SLICE)),
    Column("frechet_texture_lesion", "Fréchet, texture of lesions", ("frechet", "texture", LESION)),
    Column("frechet_segmenter", "Fréchet, segmenter", ("frechet", "segmenter", SLICE)),
    Column("kernel_texture", "kernel, texture", ("kernel", "texture", SLICE)),
    Column("precision_texture", "precision, %", ("precision", "texture", SLICE), percent=True),
    Column("recall_texture", "recall, %", ("recall", "texture", SLICE), percent=True),
    Column("coverage_texture", "coverage, %", ("coverage", "texture", SLICE), percent=True),
    Column("consistency", "pair consistency (Dice, %)", ("pair_consistency", "segmenter", MASK), percent=True),
    Column("copies", "suspected copies", ("suspected_copies", "pixels", SLICE), spread=False),
)
"""Inception's and DINOv2's are there where the study names their weights; what nobody has is left out of the
readable table. The FID in all of Inception's dimensions, of all slices, is in each method's own evaluation."""

_COUNTED = ("frechet", "texture", SLICE)
"""The figure whose number of slices is that of all distances, precision, recall and coverage."""


def table1_rows(results: Results) -> list[Row]:
    """Return table 1 as numbers: a row a method."""
    return [_quality_row(one) for one in results.methods]


def _quality_row(one: MethodResult) -> Row:
    row: Row = {
        "method": one.method.name,
        "masks": one.method.masks.value,
        "folds": len(one.quality),
        "image_size": one.quality[0]["image_size"],
        "slices": one.evaluated.mean,
        "slices_of_distances": one.slices_of(_COUNTED).mean,
        "accepted": one.accepted.mean,
    }
    for column in COLUMNS:
        found = one.figure(column.key)
        row[column.name] = found.mean
        if column.spread:
            row[f"{column.name}_sd"] = found.sd
            row[f"{column.name}_real"] = one.reference(column.key).mean
    row["parameters"] = one.costs[0].parameters
    row["iterations"] = one.costs[0].iterations
    row["training_minutes"] = Spread([cost.minutes for cost in one.costs]).mean
    row["seconds_a_slice"] = Spread([cost.seconds for cost in one.costs]).mean
    return row


_COSTS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "accepted": ("accepted, %", lambda value: f"{100 * value:.0f}"),
    "slices_of_distances": ("n, distances to coverage", lambda value: f"{value:.0f}"),
    "slices": ("n, others", lambda value: f"{value:.0f}"),
    "parameters": ("parameters, M", lambda value: f"{value / 1e6:.2f}"),
    "iterations": ("iterations a network", lambda value: f"{value:.0f}"),
    "training_minutes": ("training, min", lambda value: f"{value:.0f}"),
    "seconds_a_slice": ("s a slice", lambda value: f"{value:.2g}"),
}


def table1_text(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of table 1 to read; a last row has what unseen real slices reach."""
    shown = [column for column in COLUMNS if any(row[column.name] is not None for row in rows)]
    head = ["method", "masks", *(column.title for column in shown), *(title for title, _ in _COSTS.values())]
    body = [
        [row["method"], row["masks"]]
        + [_spread(row[column.name], row.get(f"{column.name}_sd"), column.percent) for column in shown]
        + ["–" if row[name] is None else say(row[name]) for name, (_, say) in _COSTS.items()]
        for row in rows
    ]
    real = next((row for row in rows if row["consistency"] is not None), rows[0])
    last = [_spread(real.get(f"{column.name}_real"), None, column.percent) for column in shown]
    return head, [*body, ["real, held out", "", *last, *[""] * len(_COSTS)]]


def table2_rows(results: Results) -> list[Row]:
    """Return table 2 as numbers: a row an arm."""
    return [_overlap_row(one, results) for one in results.arms]


def _overlap_row(one: ArmResult, results: Results) -> Row:
    pooled = one.estimate("dice")
    row: Row = {
        "method": "real" if one.arm.method is None else one.arm.method.name,
        "kind": one.arm.kind.value,
        "arm": one.arm.title,
        "pairs": one.arm.pairs,
        "folds": len(results.study.folds),
        "seeds": len(results.study.seeds),
        "slices": pooled.n,
        "patients": pooled.patients,
    }
    for measure in OVERLAPS:
        found = one.over_runs(measure)
        row |= {measure: found.mean, f"{measure}_sd": found.sd}
    row |= {"dice_low": pooled.low, "dice_high": pooled.high}
    row |= _compared("difference", results.against_real.get(one.arm))
    row |= _compared("longer_difference", results.against_longer.get(one.arm))
    return row


def _compared(name: str, found: Difference | None) -> Row:
    return {
        name: found and found.of.mean,
        f"{name}_low": found and found.of.low,
        f"{name}_high": found and found.of.high,
        f"{name}_p": found and found.p_value,
        f"{name}_p_holm": found and found.p_holm,
    }


def table2_text(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of table 2 to read; shares in per cent."""
    head = ["trained with", "Dice, %", "95 % CI"]
    for other in ("against real", "against longer"):
        head += [other, f"{other}: 95 % CI", f"{other}: p", f"{other}: p (Holm)"]
    head += [f"{MEASURES[measure].title}, %" for measure in OVERLAPS[1:]]
    body = []
    for row in rows:
        interval = between(row["dice_low"], row["dice_high"])
        compared = [*_differs(row, "difference"), *_differs(row, "longer_difference")]
        others = [_spread(row[measure], row[f"{measure}_sd"], True) for measure in OVERLAPS[1:]]
        body.append([row["arm"], _spread(row["dice"], row["dice_sd"], True), interval, *compared, *others])
    return head, body


def _differs(row: Row, name: str) -> list[str]:
    if row[name] is None:
        return ["–"] * 4
    return [
        f"{100 * row[name]:+.1f}",
        between(row[f"{name}_low"], row[f"{name}_high"], "+"),
        probability(row[f"{name}_p"]),
        probability(row[f"{name}_p_holm"]),
    ]


def _spread(mean: float | None, sd: float | None, percent: bool) -> str:
    if mean is None:
        return "–"
    if percent:
        return f"{100 * mean:.1f}" + ("" if sd is None else f" ± {100 * sd:.1f}")
    return short(mean) + ("" if sd is None else f" ± {sd:.2g}")


def between(low: float | None, high: float | None, sign: str = "") -> str:
    """Say an interval of shares in per cent."""
    if low is None or high is None:
        return "–"
    return f"{100 * low:{sign}.1f} to {100 * high:{sign}.1f}"


def probability(value: float) -> str:
    """Say a p-value."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
