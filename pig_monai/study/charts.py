"""The report's charts: what pairs add, Dice against the number of pairs, and quality against seconds a slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pig_monai.html import intervals, plot
from pig_monai.study.arms import Kind
from pig_monai.study.methods import METHODS
from pig_monai.study.tables import Row

_COLOURS = ("#c60", "#06c", "#393", "#939", "#a33", "#088", "#770", "#555", "#d29", "#940")
COLOURS: Mapping[str, str] = dict(zip(METHODS, _COLOURS, strict=True))
"""By method, the same in all charts."""

_REAL = "#999"


def gains(rows: Sequence[Row]) -> str:
    """Draw what the pairs of each arm add to real slices trained as long, with its interval.

    Args:
        rows: of table 2.
    """
    drawn = [
        (row["arm"].removeprefix("real + "), 100 * mean, (100 * low, 100 * high), COLOURS[row["method"]])
        for row in rows
        if (mean := row["longer_difference"]) is not None
        and (low := row["longer_difference_low"]) is not None
        and (high := row["longer_difference_high"]) is not None
    ]
    if not drawn:
        return ""
    return intervals(drawn, "Dice, points more than real slices trained as long (95 % interval)")


def dice_by_pairs(rows: Sequence[Row]) -> str:
    """Draw a line a method, and one of real slices trained as long; nothing where there is one number of pairs.

    Args:
        rows: of table 2.
    """
    series: dict[str, tuple[list[tuple[float, float]], str]] = {}
    for row in rows:
        if row["kind"] == Kind.LONGER.value:
            points = series.setdefault("as long, no pairs", ([], _REAL))[0]
            points.append((row["as_long_as"], 100 * row["dice"]))
        elif row["kind"] == Kind.PAIRS.value:
            points = series.setdefault(row["method"], ([], COLOURS[row["method"]]))[0]
            points.append((row["pairs"], 100 * row["dice"]))
    if len({row["pairs"] for row in rows if row["pairs"]}) < 2:
        return ""
    return plot(series, "pairs trained with, besides the real slices", "Dice, %")


def quality_by_seconds(rows: Sequence[Row], column: str, title: str) -> str:
    """Draw a point a method.

    Args:
        rows: of table 1.
        column: the figure, in ``rows``.
        title: its name.
    """
    series = {
        row["method"]: ([(row["seconds_a_slice"], row[column])], COLOURS[row["method"]])
        for row in rows
        if row[column] is not None and row["seconds_a_slice"]
    }
    if not series:
        return ""
    return plot(series, "seconds a slice (logarithmic)", f"{title} (lower is better)", log_x=True)
