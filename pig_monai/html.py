"""Self-contained pages: one file with its pictures inside, readable for years."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
h2 { margin-top: 2em } figure { margin: 1em 0 } figcaption { color: #555 }
img { max-width: 100%; image-rendering: pixelated }
table { border-collapse: collapse; margin: 0.5em 0 1.5em }
th, td { text-align: left; padding: 0.2em 1.2em 0.2em 0; border-bottom: 1px solid #ddd; vertical-align: top }
code { background: #f3f3f3; padding: 0 0.3em } pre { background: #f3f3f3; padding: 0.8em; overflow-x: auto }
.notice { background: #fff4e0; padding: 0.6em 1em }
details { margin: 0.6em 0; border-left: 3px solid #ddd; padding-left: 0.8em } summary { cursor: pointer }
.remedy { display: block; color: #555 } .codes { font-family: monospace; font-size: 12px; color: #555 }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(160px, 1fr)); gap: 10px }
.figures figure { margin: 0; break-inside: avoid } .figures img { width: 100%; image-rendering: auto }
.figures figcaption { font-size: 12px; line-height: 1.3 }
.number td:not(:first-child), .number th:not(:first-child) { text-align: right }
.number { display: block; overflow-x: auto; border-collapse: separate; border-spacing: 0 }
.number td:not(:first-child) { white-space: nowrap }
.number td, .number th { padding-right: 0; padding-left: 0.9em } .number th { vertical-align: bottom }
.number td:first-child, .number th:first-child { position: sticky; left: 0; background: #fff; padding-left: 0 }
.wide { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)); gap: 10px }
.wide figure { margin: 0 } .wide img { width: 100% } .wide figcaption { font-size: 12px; line-height: 1.3 }
svg { max-width: 100%; height: auto }
@media (max-width: 700px) {
  table { display: block; overflow-x: auto } th, td { padding-right: 0.8em }
  td:not(:first-child) { overflow-wrap: anywhere }
  figure { overflow-x: auto } svg { min-width: 340px } body > figure img { max-width: none }
  .number td:first-child, .number th:first-child { max-width: 8em; overflow-wrap: normal }
}
"""

_LEFT, _BOTTOM = 60, 20  # of a chart: the room for its labels, pixels


def page(title: str, parts: Sequence[str]) -> str:
    """Return a page of HTML ``parts`` under a headline."""
    text = html.escape(title)
    head = "<!doctype html>\n<html lang='en'><meta charset='utf-8'>"
    head += f"<meta name='viewport' content='width=device-width'><title>{text}</title><style>{STYLE}</style>\n"
    return head + f"<h1>{text}</h1>\n" + "\n".join(parts) + "\n</html>\n"


def paragraph(text: str, kind: str = "") -> str:
    """Return a paragraph; ``kind`` may be ``notice``."""
    return f"<p class='{kind}'>{html.escape(text)}</p>" if kind else f"<p>{html.escape(text)}</p>"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], kind: str = "") -> str:
    """Return a table; None shows as an empty cell; ``kind`` may be ``number``, for columns of them."""
    titles = "".join(f"<th>{html.escape(title)}</th>" for title in head)
    body = "".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    style = f" class='{kind}'" if kind else ""
    return f"<table{style}>{'<tr>' + titles + '</tr>' if any(head) else ''}\n{body}</table>"


def facts(values: Mapping[str, Any]) -> str:
    """Return a table of names and values."""
    return table([], [list(item) for item in values.items()])


def _cell(value: Any) -> str:
    return "" if value is None else html.escape(str(value))


def picture(image: Image.Image, caption: str) -> str:
    """Return a figure with the picture inside, as lossless PNG."""
    stream = io.BytesIO()
    image.save(stream, "png", compress_level=3)  # no larger than level 9 for slices, and much faster
    source = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
    text = html.escape(caption)
    return f"<figure><img alt='{text}' src='{source}'><figcaption>{text}</figcaption></figure>"


def scatter(
    points: Sequence[tuple[float, float]], caption: str, x_name: str, width: int = 520, height: int = 240
) -> str:
    """Return points as a figure, x on a logarithmic axis, y from 0 to 1.

    Args:
        points: (x, y), at least one; x positive.
        caption: below the chart.
        x_name: what x is, with its unit.
        width: of the chart in pixels.
        height: of the chart in pixels.
    """
    left, top, right, bottom = 40, 8, width - 10, height - 40
    low, high = min(x for x, _ in points), max(x for x, _ in points)
    span = math.log(high / low) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        return left + math.log(x / low) / span * (right - left), bottom - y * (bottom - top)

    dots = "".join(
        "<circle cx='{:.1f}' cy='{:.1f}' r='3' fill='#c60' fill-opacity='0.5'/>".format(*place(*point))
        for point in points
    )
    middle = math.sqrt(low * high)
    ticks = [(x, "start" if x == low else "end" if x == high else "middle") for x in sorted({low, middle, high})]
    texts = "".join(
        f"<text x='{place(x, 0)[0]:.1f}' y='{bottom + 16}' text-anchor='{a}' font-size='12'>{x:.3g}</text>"
        for x, a in ticks
    ) + "".join(
        f"<text x='{left - 6}' y='{place(low, y)[1] + 4:.1f}' text-anchor='end' font-size='12'>{y:g}</text>"
        for y in (0, 0.5, 1)
    )
    named = f"<text x='{(left + right) / 2}' y='{height - 6}' text-anchor='middle' font-size='12'>"
    axes = f"<polyline points='{left},{top} {left},{bottom} {right},{bottom}' fill='none' stroke='#999'/>"
    return _chart(f"{axes}{dots}{texts}{named}{html.escape(x_name)}</text>", caption, width, height)


def figures(pictures: Sequence[str], kind: str = "figures") -> str:
    """Return a grid of what `picture` returned; ``kind`` may be ``wide``, for charts and pictures side by side."""
    return f"<div class='{kind}'>{''.join(pictures)}</div>"


def unfolding(head: str, below: str, parts: Sequence[str]) -> str:
    """Return a line, with another one below it, that unfolds to HTML ``parts``."""
    line = f"{html.escape(head)}<span class='remedy'>{html.escape(below)}</span>"
    return f"<details><summary>{line}</summary>{''.join(parts)}</details>"


def codes(values: Sequence[str]) -> str:
    """Return a paragraph of short texts in a typewriter's letters."""
    return f"<p class='codes'>{html.escape(' · '.join(values))}</p>"


def histogram(
    edges: Sequence[float], counts: Sequence[float], caption: str, width: int = 520, height: int = 180
) -> str:
    """Return a bar chart as a figure; the axes are labelled with their ends.

    Args:
        edges: of the bins, ascending; one more than ``counts``.
        counts: of each bin.
        caption: below the chart; says what the axes are.
        width: of the chart in pixels.
        height: of the chart in pixels.
    """
    most = max(counts, default=0) or 1
    scale = (width - _LEFT - 10) / (edges[-1] - edges[0])
    bars = ""
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        x, wide = _LEFT + (low - edges[0]) * scale, max(0.5, (high - low) * scale - 1)
        tall = count / most * (height - _BOTTOM - 5)
        bar = f"x='{x:.1f}' y='{height - _BOTTOM - tall:.1f}' width='{wide:.1f}' height='{tall:.1f}' fill='#c60'"
        bars += f"<rect {bar}><title>{low:g} to {high:g}: {count}</title></rect>"
    return _chart(bars + _frame((edges[0], edges[-1]), most, width, height), caption, width, height)


def steps(
    edges: Sequence[float],
    series: Mapping[str, tuple[Sequence[float], str]],
    caption: str,
    width: int = 520,
    height: int = 200,
) -> str:
    """Return histograms drawn over each other as a figure, with a legend; the axes are labelled with their ends.

    Args:
        edges: of the bins, ascending.
        series: by name, the height of each bin and a colour.
        caption: below the chart; says what the axes are.
        width: of the chart in pixels.
        height: of the chart in pixels.
    """
    most = max((max(heights, default=0) for heights, _ in series.values()), default=0) or 1
    scale, floor = (width - _LEFT - 10) / (edges[-1] - edges[0]), height - _BOTTOM
    drawn = ""
    for number, (name, (heights, colour)) in enumerate(series.items()):
        points: list[tuple[float, float]] = [(_LEFT, floor)]
        for low, high, value in zip(edges[:-1], edges[1:], heights, strict=True):
            y = floor - value / most * (floor - 5)
            points += [(_LEFT + (low - edges[0]) * scale, y), (_LEFT + (high - edges[0]) * scale, y)]
        points.append((width - 10, floor))
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        drawn += f"<polygon points='{path}' fill='{colour}' fill-opacity='0.25' stroke='{colour}'/>"
        middle = _LEFT + (number + 1) / (len(series) + 1) * (width - _LEFT - 10)  # below, between the axis's ends
        place = f"x='{middle:.0f}' y='{height - 5}' text-anchor='middle' font-size='12'"
        drawn += f"<text {place} fill='{colour}'>{html.escape(name)}</text>"
    return _chart(drawn + _frame((edges[0], edges[-1]), most, width, height), caption, width, height)


def curve(points: Sequence[tuple[float, float]], caption: str, width: int = 520, height: int = 180) -> str:
    """Return a line chart as a figure; axes are labelled with their ends.

    Args:
        points: (x, y), at least two, x ascending.
        caption: below the chart.
        width: of the chart in pixels.
        height: of the chart in pixels.
    """
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_span, top = max(xs) - min(xs) or 1, max(ys) or 1
    path = " ".join(
        f"{_LEFT + (x - min(xs)) / x_span * (width - _LEFT - 10):.1f},"
        f"{5 + (1 - y / top) * (height - _BOTTOM - 5):.1f}"
        for x, y in points
    )
    line = f"<polyline points='{path}' fill='none' stroke='#c60' stroke-width='1.5'/>"
    frame = _frame((min(xs), max(xs)), top, width, height)
    return _chart(line + frame, caption, width, height)


def plot(
    series: Mapping[str, tuple[Sequence[tuple[float, float]], str]],
    x_name: str,
    y_name: str,
    log_x: bool = False,
    width: int = 640,
    height: int = 300,
) -> str:
    """Return lines through points as a figure, each named at its last point; a single point is a dot with a name.

    Args:
        series: by name, points (x, y) with ascending x, and a colour.
        x_name: what x is, with its unit.
        y_name: what y is, with its unit.
        log_x: logarithmic x axis; x is positive then.
        width: of the chart in pixels.
        height: of the chart in pixels.
    """
    left, top, right, bottom = _LEFT, 12, width - 120, height - 40  # names need the room on the right
    scaled = math.log if log_x else float
    xs = [x for points, _ in series.values() for x, _ in points]
    ys = [y for points, _ in series.values() for _, y in points]
    margin = 0.08 * (max(ys) - min(ys)) or 1.0
    low, high = min(ys) - margin, max(ys) + margin
    first, span = scaled(min(xs)), scaled(max(xs)) - scaled(min(xs)) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (scaled(x) - first) / span * (right - left),
            bottom - (y - low) / (high - low) * (bottom - top),
        )

    drawn = ""
    names = []
    for name, (points, colour) in series.items():
        places = [place(*point) for point in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        drawn += f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='1.5'/>"
        for (x, y), point in zip(places, points, strict=True):
            told = html.escape(f"{name}: {point[0]:g}, {point[1]:.3g}")
            drawn += f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='{colour}'><title>{told}</title></circle>"
        names.append((*places[-1], name, colour))
    for x, y, name, colour in _apart(names):
        drawn += f"<text x='{x + 7:.1f}' y='{y + 4:.1f}' font-size='12' fill='{colour}'>{html.escape(name)}</text>"
    frame = f"<polyline points='{left},{top} {left},{bottom} {right},{bottom}' fill='none' stroke='#999'/>"
    labels = [(place(x, low)[0], bottom + 15.0, "middle", x) for x in sorted({min(xs), max(xs)})]
    labels += [(left - 6.0, place(min(xs), y)[1] + 4, "end", y) for y in (low + margin, high - margin)]
    for x, y, anchor, value in labels:
        frame += f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' font-size='12'>{short(value)}</text>"
    named = f"<text x='{(left + right) / 2}' y='{height - 6}' text-anchor='middle' font-size='12'>"
    return _chart(f"{frame}{drawn}{named}{html.escape(x_name)}</text>", y_name, width, height)


def intervals(
    rows: Sequence[tuple[str, float, tuple[float, float], str]],
    caption: str,
    width: int = 520,
    row_height: int = 24,
) -> str:
    """Return values with their intervals as a figure, a row each, and a line at 0.

    Args:
        rows: name, value, ends of its interval, colour; at least one.
        caption: below the chart: what the values are, with their unit.
        width: of the chart in pixels.
        row_height: in pixels.
    """
    left, right, bottom = 130, width - 20, len(rows) * row_height + 8
    ends = [0.0, *(end for _, _, both, _ in rows for end in both)]
    span = max(ends) - min(ends) or 1.0

    def place(x: float) -> float:
        return left + (x - min(ends)) / span * (right - left)

    zero = f"x1='{place(0):.1f}' x2='{place(0):.1f}' y1='4' y2='{bottom}'"
    drawn = f"<line {zero} stroke='#999' stroke-dasharray='4 3'/>"
    for number, (name, value, (low, high), colour) in enumerate(rows):
        y = 4 + (number + 0.5) * row_height
        told = html.escape(f"{name}: {value:+.2f} ({low:+.2f} to {high:+.2f})")
        drawn += f"<text x='{left - 10}' y='{y + 4}' text-anchor='end' font-size='12'>{html.escape(name)}</text>"
        line = f"x1='{place(low):.1f}' x2='{place(high):.1f}' y1='{y}' y2='{y}'"
        drawn += f"<line {line} stroke='{colour}' stroke-width='2'/>"
        drawn += f"<circle cx='{place(value):.1f}' cy='{y}' r='4' fill='{colour}'><title>{told}</title></circle>"
    for x in sorted({min(ends), 0.0, max(ends)}):
        drawn += f"<text x='{place(x):.1f}' y='{bottom + 16}' text-anchor='middle' font-size='12'>{x:+.1f}</text>"
    return _chart(drawn, caption, width, bottom + 24)


def short(value: float) -> str:
    """Return a number in three digits or so: 0.0312, 18100."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def between(low: float | None, high: float | None, percent: bool = False, sign: str = "") -> str:
    """Return "low to high" in three digits, or of shares in per cent; a dash where either is unknown."""
    if low is None or high is None:
        return "–"
    return f"{100 * low:{sign}.1f} to {100 * high:{sign}.1f}" if percent else f"{short(low)} to {short(high)}"


def probability(value: float) -> str:
    """Return a p-value in three digits: 0.031, < 0.001."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _apart(
    names: Sequence[tuple[float, float, str, str]], least: float = 13
) -> list[tuple[float, float, str, str]]:
    """Move texts downwards until none covers another; they are (x, y, text, colour)."""
    placed: list[tuple[float, float, str, str]] = []
    for x, y, text, colour in sorted(names, key=lambda one: one[1]):
        near = [other for other in placed if abs(other[0] - x) < 100]
        lowest = max((other[1] + least for other in near if other[1] + least > y), default=y)
        placed.append((x, lowest, text, colour))
    return placed


def _frame(x_ends: tuple[float, float], top: float, width: int, height: int) -> str:
    """Return a chart's axes, labelled with their ends; the y axis begins at 0."""
    axes = f"{_LEFT},5 {_LEFT},{height - _BOTTOM} {width - 10},{height - _BOTTOM}"
    labels = [
        (_LEFT - 5, 15, "end", short(top)),
        (_LEFT - 5, height - _BOTTOM, "end", "0"),
        (_LEFT, height - 5, "start", short(x_ends[0])),
        (width - 10, height - 5, "end", short(x_ends[1])),
    ]
    texts = "".join(f"<text x='{x}' y='{y}' text-anchor='{a}' font-size='12'>{t}</text>" for x, y, a, t in labels)
    return f"<polyline points='{axes}' fill='none' stroke='#999'/>{texts}"


def _chart(shapes: str, caption: str, width: int, height: int) -> str:
    box = f"width='{width}' height='{height}' viewBox='0 0 {width} {height}'"
    drawn = f"<svg {box} role='img'>{shapes}</svg>"
    return f"<figure>{drawn}<figcaption>{html.escape(caption)}</figcaption></figure>"
