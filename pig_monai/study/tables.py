"""The paper's tables: as numbers for programs, and as text for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pig_monai.evaluation.results import MEASURES
from pig_monai.features.space import LESION, MASK, SLICE
from pig_monai.html import short
from pig_monai.metrics.spread import Spread
from pig_monai.study.results import OVERLAPS, ArmResult, Key, MethodResult, Results

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
    Column("fid", "FID", ("frechet", "inception", SLICE)),
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
"""FID is there where Inception's weights were given; what nobody has is left out of the readable table."""


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
    "slices": ("n", lambda value: f"{value:.0f}"),
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
    difference = results.differences.get(one.arm.name)
    row |= {
        "difference": difference and difference.of.mean,
        "difference_low": difference and difference.of.low,
        "difference_high": difference and difference.of.high,
        "p": difference and difference.p_value,
        "p_holm": difference and difference.p_holm,
    }
    return row


def table2_text(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of table 2 to read; shares in per cent."""
    head = ["trained with", "Dice, %", "95 % CI", "against real", "95 % CI", "p", "p (Holm)"]
    head += [f"{MEASURES[measure].title}, %" for measure in OVERLAPS[1:]]
    body = []
    for row in rows:
        interval = _between(row["dice_low"], row["dice_high"])
        compared = ["–"] * 4
        if row["difference"] is not None:
            compared = [
                f"{100 * row['difference']:+.1f}",
                _between(row["difference_low"], row["difference_high"], "+"),
                _probability(row["p"]),
                _probability(row["p_holm"]),
            ]
        others = [_spread(row[measure], row[f"{measure}_sd"], True) for measure in OVERLAPS[1:]]
        body.append([row["arm"], _spread(row["dice"], row["dice_sd"], True), interval, *compared, *others])
    return head, body


def _spread(mean: float | None, sd: float | None, percent: bool) -> str:
    if mean is None:
        return "–"
    if percent:
        return f"{100 * mean:.1f}" + ("" if sd is None else f" ± {100 * sd:.1f}")
    return short(mean) + ("" if sd is None else f" ± {sd:.2g}")


def _between(low: float | None, high: float | None, sign: str = "") -> str:
    if low is None or high is None:
        return "–"
    return f"{100 * low:{sign}.1f} to {100 * high:{sign}.1f}"


def _probability(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
