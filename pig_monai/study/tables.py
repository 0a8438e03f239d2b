"""The paper's tables: as numbers for programs, and as text for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pig_monai.evaluation.results import MEASURES
from pig_monai.html import between, probability, short
from pig_monai.metrics.spread import Spread
from pig_monai.metrics.two_samples import any_of, holm
from pig_monai.study.columns import COLUMNS, COUNTED, LIKENESS, PAIRING, Column, Pooling
from pig_monai.study.results import OVERLAPS, ArmResult, Difference, MethodResult, Results

Row = dict[str, Any]


class Readable(NamedTuple):
    """A table to read.

    Args:
        head: of the columns.
        rows: the cells.
    """

    head: list[str]
    rows: list[list[str]]


def table1_rows(results: Results) -> list[Row]:
    """Return table 1 as numbers: a row a method."""
    rows = [_quality_row(one) for one in results.methods]
    for column in (column for column in COLUMNS if column.pooling == Pooling.P_VALUE):
        tested = [row for row in rows if row[column.name] is not None]
        for row, p in zip(tested, holm([row[column.name] for row in tested]), strict=True):
            row[column.shown] = p
    return rows


def _quality_row(one: MethodResult) -> Row:
    row: Row = {
        "method": one.method.name,
        "masks": one.method.masks.value,
        "folds": len(one.quality),
        "image_size": one.image_size,
        "slices": one.evaluated.mean,
        "slices_of_distances": one.slices_of(COUNTED).mean,
        "accepted": one.accepted.mean,
    }
    for column in COLUMNS:
        row |= _figures(one, column)
    row["parameters"] = one.costs[0].parameters
    row["trainings"] = one.costs[0].trainings
    row["iterations"] = one.costs[0].iterations
    row["training_minutes"] = Spread([cost.minutes for cost in one.costs]).mean
    row["seconds_a_slice"] = Spread([cost.seconds for cost in one.costs]).mean
    return row


def _figures(one: MethodResult, column: Column) -> Row:
    """Return what belongs to a figure of table 1, by column of the CSV file."""
    found, name = one.figure(column.key), column.name
    if column.pooling == Pooling.COUNT:
        return {name: found.total, f"{name}_of": one.slices_of(column.key).total}
    if column.pooling == Pooling.P_VALUE:
        return {name: any_of(found.known) if found.known else None, column.shown: None}  # of all methods together
    row: Row = {name: found.mean, f"{name}_sd": found.sd, f"{name}_real": one.reference(column.key).mean}
    if column.has_range:
        row[f"{name}_real_low"], row[f"{name}_real_high"] = one.range_of_real(column.key)
    if column.pooling == Pooling.ESTIMATE:
        row[f"{name}_low"], row[f"{name}_high"] = one.interval(column.key)
    return row


def table1_parts(rows: Sequence[Row]) -> list[Readable]:
    """Return table 1 to read, in parts that fit a page."""
    return [*likeness_tables(rows), pairing_table(rows), costs_table(rows)]


def likeness_tables(rows: Sequence[Row]) -> list[Readable]:
    """Return how near the slices of table 1's methods are to real ones, a table a feature space that was measured.

    The last rows have what real slices reach.
    """
    tables = [_quality(title, rows, columns) for title, columns in LIKENESS.items()]
    return [one for one in tables if one.rows]


def pairing_table(rows: Sequence[Row]) -> Readable:
    """Return whether masks and slices of table 1's methods belong together, and whether they are new."""
    return _quality("method", rows, PAIRING)


def _quality(title: str, rows: Sequence[Row], columns: Sequence[Column]) -> Readable:
    shown = [column for column in columns if any(row[column.shown] is not None for row in rows)]
    if not shown:
        return Readable([title], [])
    body = [[row["method"], *(_cell(row, column) for column in shown)] for row in rows]
    real = next((row for row in rows if row["consistency"] is not None), rows[0])
    heldout = [_spread(real.get(f"{column.name}_real"), None, column.percent) for column in shown]
    body.append(["real, held out", *heldout])
    if any(column.has_range for column in shown):
        body.append(["real, any patients", *(_range(real, column) for column in shown)])
    return Readable([title, *(column.title for column in shown)], body)


def _cell(row: Row, column: Column) -> str:
    value, name = row[column.shown], column.name
    if value is None:
        return "–"
    if column.pooling == Pooling.COUNT:
        return f"{value:.0f} of {row[f'{name}_of']:.0f}"
    if column.pooling == Pooling.P_VALUE:
        return probability(value)
    text = _spread(value, row.get(f"{name}_sd"), column.percent)
    interval = between(row.get(f"{name}_low"), row.get(f"{name}_high"), percent=True)
    return text if interval == "–" else f"{text} ({interval})"


def _range(real: Row, column: Column) -> str:
    return between(real.get(f"{column.name}_real_low"), real.get(f"{column.name}_real_high"))


_COSTS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "image_size": ("pixels a side", lambda value: f"{value:.0f}"),
    "slices": ("slices", lambda value: f"{value:.0f}"),
    "slices_of_distances": ("of them for distances", lambda value: f"{value:.0f}"),
    "accepted": ("accepted, %", lambda value: f"{100 * value:.0f}"),
    "parameters": ("parameters, M", lambda value: f"{value / 1e6:.2f}"),
    "trainings": ("networks trained", lambda value: f"{value:.0f}"),
    "iterations": ("iterations each", lambda value: f"{value:.0f}"),
    "training_minutes": ("training, min", lambda value: f"{value:.0f}"),
    "seconds_a_slice": ("s a slice", lambda value: f"{value:.2g}"),
}


def costs_table(rows: Sequence[Row]) -> Readable:
    """Return what table 1's methods need."""
    head = ["method", "masks", *(title for title, _ in _COSTS.values())]
    body = [
        [row["method"], row["masks"]]
        + ["–" if row[name] is None else say(row[name]) for name, (_, say) in _COSTS.items()]
        for row in rows
    ]
    return Readable(head, body)


_COMPARED = {"difference": "against real", "longer_difference": "against longer", "pig_difference": "against PIG"}
"""Table 2's differences: columns of the CSV file, and titles."""


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
        "as_long_as": one.arm.as_long_as,
        "folds": len(results.study.folds),
        "seeds": len(results.study.seeds),
        "slices": pooled.n,
        "patients": pooled.patients,
    }
    for measure in OVERLAPS:
        found = one.estimate(measure)
        row |= {measure: found.mean, f"{measure}_sd": one.over_runs(measure).sd}
        row |= {f"{measure}_low": found.low, f"{measure}_high": found.high}
    against = (results.against_real, results.against_longer, results.against_pig)
    for name, differences in zip(_COMPARED, against, strict=True):
        row |= _compared(name, differences.get(one.arm))
    return row


def _compared(name: str, found: Difference | None) -> Row:
    return {
        name: found and found.of.patient_mean,
        f"{name}_low": found and found.of.patient_low,
        f"{name}_high": found and found.of.patient_high,
        f"{name}_p": found and found.p_value,
        f"{name}_p_holm": found and found.p_holm,
    }


def table2_parts(rows: Sequence[Row]) -> list[Readable]:
    """Return table 2 to read, in parts that fit a page."""
    return [overlaps_table(rows), differences_table(rows)]


def overlaps_table(rows: Sequence[Row]) -> Readable:
    """Return how table 2's arms segment; shares in per cent."""
    head = ["trained with", "Dice, %", "95 % CI", *(f"{MEASURES[measure].title}, %" for measure in OVERLAPS[1:])]
    body = []
    for row in rows:
        dice, *others = (_spread(row[measure], row[f"{measure}_sd"], True) for measure in OVERLAPS)
        body.append([row["arm"], dice, between(row["dice_low"], row["dice_high"], percent=True), *others])
    return Readable(head, body)


def differences_table(rows: Sequence[Row]) -> Readable:
    """Return how table 2's arms differ in Dice, in points; comparisons that nobody has are left out."""
    shown = {name: title for name, title in _COMPARED.items() if any(row[name] is not None for row in rows)}
    head = ["Dice, points"]
    for title in shown.values():
        head += [title, f"{title}: p", f"{title}: p (Holm)"]
    body = [[row["arm"], *(cell for name in shown for cell in _differs(row, name))] for row in rows]
    return Readable(head, [cells for cells in body if any(cell != "–" for cell in cells[1:])])


def _differs(row: Row, name: str) -> list[str]:
    if row[name] is None:
        return ["–"] * 3
    interval = between(row[f"{name}_low"], row[f"{name}_high"], percent=True, sign="+")
    return [
        f"{100 * row[name]:+.1f}" + (f" ({interval})" if interval != "–" else ""),
        probability(row[f"{name}_p"]),
        probability(row[f"{name}_p_holm"]),
    ]


def _spread(mean: float | None, sd: float | None, percent: bool) -> str:
    if mean is None:
        return "–"
    if percent:
        return f"{100 * mean:.1f}" + ("" if sd is None else f" ± {100 * sd:.1f}")
    return short(mean) + ("" if sd is None else f" ± {sd:.2g}")
