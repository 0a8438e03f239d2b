from __future__ import annotations

import re

import pytest

from pig_monai.html import scatter, steps


def test_points_lie_on_a_logarithmic_axis() -> None:
    chart = scatter([(1, 0.0), (10, 0.5), (100, 1.0)], "Dice <of> slices", "area, mm²")
    dots = [(float(x), float(y)) for x, y in re.findall(r"cx='([\d.]+)' cy='([\d.]+)'", chart)]
    (x0, y0), (x1, y1), (x2, y2) = dots
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11) == pytest.approx((520 - 10 - 40) / 2, abs=0.11)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.11)
    assert y0 > y1  # up is more
    assert re.findall(r">([\d.]+)</text>", chart) == ["1", "10", "100", "0", "0.5", "1"]
    assert "Dice &lt;of&gt; slices" in chart


def test_points_of_one_size_do_not_divide_by_nothing() -> None:
    assert scatter([(7, 0.2), (7, 0.9)], "", "").count("<circle") == 2


def test_histograms_over_each_other_share_their_axes() -> None:
    chart = steps(
        [0, 1, 2], {"real": ([1, 3], "#357"), "<made>": ([2, 0], "#c60")}, "share", width=170, height=125
    )
    one, other = (
        [tuple(map(float, point.split(","))) for point in path.split()]
        for path in re.findall(r"points='([^']+)' fill='#", chart)
    )
    assert one == [(60, 105), (60, 71.7), (110, 71.7), (110, 5), (160, 5), (160, 105)]  # 100 pixels for 3
    assert other == [(60, 105), (60, 38.3), (110, 38.3), (110, 105), (160, 105), (160, 105)]
    assert "&lt;made&gt;" in chart
    assert steps([0, 1], {"nothing": ([0], "#357")}, "").count("<polygon") == 1


def test_bins_are_drawn_where_they_are_and_labels_alone_are_rounded() -> None:
    edges = [99.96 + 0.002 * number for number in range(21)]
    chart = steps(edges, {"masks": ([1.0] * 20, "#357")}, "share", width=470)
    places = [float(point.split(",")[0]) for point in re.findall(r"points='([^']+)' fill='#", chart)[0].split()]
    wanted = [60 + 20 * number for number in range(21)]
    assert places[1:-1:2] == pytest.approx(wanted[:-1], abs=0.11)
    assert places[2:-1:2] == pytest.approx(wanted[1:], abs=0.11)
    wide = steps([0.123456, 1234.56], {"masks": ([1 / 3], "#357")}, "share")
    assert re.findall(r">([\d.]+)</text>", wide) == ["0.333", "0", "0.123", "1235"]
