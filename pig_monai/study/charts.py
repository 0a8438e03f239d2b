"""The report's two charts: Dice against the number of pairs, and quality against seconds a slice."""

from __future__ import annotations

from collections.abc import Sequence

from pig_monai.html import plot
from pig_monai.study.arms import Kind
from pig_monai.study.tables import Row

COLOURS = ("#c60", "#06c", "#393", "#939", "#a33", "#088", "#770", "#555")


def dice_by_pairs(rows: Sequence[Row]) -> str:
    """Draw a line a method, from real slices alone (0 pairs) to the most pairs.

    Args:
        rows: of table 2.
    """
    real = next(row["dice"] for row in rows if row["kind"] == Kind.BASELINE.value)
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row["pairs"]:
            series.setdefault(row["method"], [(0.0, 100 * real)]).append((row["pairs"], 100 * row["dice"]))
    if not series:
        return ""
    return plot(_coloured(series), "pairs trained with, besides the real slices", "Dice, %")


def quality_by_seconds(rows: Sequence[Row], column: str, title: str) -> str:
    """Draw a point a method.

    Args:
        rows: of table 1.
        column: the figure, in ``rows``.
        title: its name.
    """
    known = [row for row in rows if row[column] is not None and row["seconds_a_slice"]]
    series = {row["method"]: [(row["seconds_a_slice"], row[column])] for row in known}
    if not series:
        return ""
    return plot(_coloured(series), "seconds a slice (logarithmic)", f"{title} (lower is better)", log_x=True)


def _coloured(
    series: dict[str, list[tuple[float, float]]],
) -> dict[str, tuple[Sequence[tuple[float, float]], str]]:
    return {name: (points, COLOURS[i % len(COLOURS)]) for i, (name, points) in enumerate(series.items())}
