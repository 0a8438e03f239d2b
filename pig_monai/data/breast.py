"""Where the breast is in a slice, and on which side its chest wall.

The breast is looked for on a coarse grid, where noise averages out and a large slice costs little. It is what is
brighter than the background, connected and thick: burnt-in text, the edges of compression paddles and the frames
of collimators are not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import label as connected_components

from pig_monai.data.bounding import Box, bounding_box, within
from pig_monai.data.resampling import block_weights, resample

FINE = 512
"""Slices up to this size are looked at pixel by pixel."""

COARSE = 400
"""The longest side of the coarse grid of larger ones, at most: what is 0.3 % of a side is seen."""

BREAST_FRACTION = 0.1
"""A pixel belongs to the breast when it is brighter than the background by this fraction of the median breast."""

# All in fractions of the longest side:
_THIN = 0.025  # what is thinner than this is no breast: text, paddle edges
_GAPS = 0.01  # so wide gaps in the skin are closed
_SOLID = 0.08  # markers are smaller than this, the core of a breast is larger
_BAND = 0.04  # bright bands along an edge of the image that are no wider than this are no breast
# Of the range of the slice, and of the brightness of the breast:
_FLAT = 0.03  # the background is this even once its gradient is gone, or as even as its noise
_GLARING = 1.3  # a marker is so much brighter than 98 % of the breast
_SURE = 0.15  # by so much is the breast taller at the chest wall, at least


@dataclass(frozen=True)
class Breast:
    """The breast on the coarse grid of a slice.

    Args:
        inside: bool (w, h), the coarse pixels of the breast.
        step: side of a coarse pixel in pixels of the slice; the last ones may be cut off.
        size: (W, H) of the slice.
    """

    inside: np.ndarray
    step: int
    size: tuple[int, int]

    @property
    def box(self) -> Box | None:
        """The bounding box in pixels of the slice; None without a breast."""
        box = bounding_box(self.inside)
        if box is None:
            return None
        x0, y0, x1, y1 = (edge * self.step for edge in box)
        return x0, y0, min(x1, self.size[0]), min(y1, self.size[1])

    def values(self, image: np.ndarray) -> np.ndarray:
        """Return the values (n,) of a slice (W, H) inside the breast: of the middle of each coarse pixel."""
        middles = [
            np.minimum(index * self.step + self.step // 2, size - 1)
            for index, size in zip(np.nonzero(self.inside), self.size, strict=True)
        ]
        found = image[middles[0], middles[1]]
        return found[~np.isnan(found)]

    def mask(self) -> np.ndarray:
        """Return the breast on the grid of the slice: bool (W, H), in steps of the coarse grid."""
        fine = np.repeat(np.repeat(self.inside, self.step, axis=0), self.step, axis=1)
        return fine[: self.size[0], : self.size[1]]


def find_breast(image: np.ndarray) -> Breast:
    """Find the breast in a slice.

    Args:
        image: (W, H), any unit; NaN, where the source has no data, counts as dark.
    """
    size = image.shape[0], image.shape[1]
    step = 1 if max(size) <= FINE else math.ceil(max(size) / COARSE)
    coarse = _coarse(np.asarray(image, np.float32), step)
    above = _above_background(coarse)
    inside = np.zeros_like(above)
    inner = _without_bands(above)
    inside[inner] = _thick_part(above[inner], coarse[inner], max(above.shape))
    return Breast(inside, step, size)


def _coarse(image: np.ndarray, step: int) -> np.ndarray:
    """Average ``step`` × ``step`` pixels: float32 (w, h); NaN takes no part, and is dark where it is all."""
    mean = _pooled(image, step)
    if np.isnan(mean).any():
        known = ~np.isnan(image)
        if not known.any():
            return np.zeros(mean.shape, np.float32)
        total, share = (_pooled(part, step) for part in (np.nan_to_num(image), known.astype(np.float32)))
        mean = np.divide(total, share, out=np.full_like(total, np.nan), where=share > 0)
        mean = np.nan_to_num(mean, nan=float(np.nanmin(mean)))
    return mean


def _pooled(image: np.ndarray, step: int) -> np.ndarray:
    return image if step == 1 else resample(image, *(block_weights(n, step) for n in image.shape))


def _above_background(coarse: np.ndarray) -> np.ndarray:
    """Return what is brighter than the background: bool (w, h).

    The background is the darkest thing in a slice; it may have a level, a gradient and noise. A plane is laid
    through what is dark, then through what lies near that plane, until the two agree.
    """
    thin = max(1, max(coarse.shape) // 64)  # a plane needs no more points
    points = coarse[::thin, ::thin]
    dark, span = _dark_and_span(points)
    if span <= 0:
        return np.zeros(coarse.shape, bool)
    terms = np.stack([np.ones(points.size), *(g.ravel() * thin for g in np.indices(points.shape))], axis=1)
    values = points.ravel().astype(np.float64)
    near = values <= dark + 5 * _FLAT * span
    for _ in range(6):
        plane = np.linalg.lstsq(terms[near], values[near], rcond=None)[0]
        rest = values - np.minimum(terms @ plane, dark + span / 3)
        noise = 1.4826 * float(np.median(np.abs(rest[near])))
        before, near = near, rest <= max(_FLAT * span, 3 * noise)
        if near.sum() < 10 or np.array_equal(near, before):
            break
    x, y = np.ogrid[: coarse.shape[0], : coarse.shape[1]]
    rest = coarse - np.minimum(plane[0] + plane[1] * x + plane[2] * y, dark + span / 3)
    lit = rest[rest > 2 * _FLAT * span]
    if not len(lit):
        return np.zeros(coarse.shape, bool)
    median = float(np.median(lit))
    return rest > min(max(BREAST_FRACTION * median, 3 * noise), median / 2)


def _dark_and_span(coarse: np.ndarray) -> tuple[float, float]:
    """Return how dark a slice is, and how much brighter most of what is not dark is: metal does not count."""
    dark, bright = (float(v) for v in np.percentile(coarse, [1, 99]))
    if bright <= dark:  # less than 1 % of the slice holds anything
        dark, bright = float(coarse.min()), float(coarse.max())
    for _ in range(3):
        lit = coarse[coarse > dark + 0.05 * (bright - dark)]
        bright = float(np.percentile(lit, 75)) if len(lit) else dark
    return dark, bright - dark


def _without_bands(above: np.ndarray) -> tuple[slice, slice]:
    """Return the part of the image inside bright bands along its edges: frames, paddles.

    A band covers a whole edge and ends abruptly; a breast that fills an edge recedes from its corners slowly.
    """
    widest = max(1, round(_BAND * max(above.shape)))
    inner = []
    for axis in (0, 1):
        filled = above.mean(axis=1 - axis)
        ends = [_band_width(line, widest) for line in (filled, filled[::-1])]
        inner.append(slice(ends[0], len(filled) - ends[1]))
    return inner[0], inner[1]


def _band_width(filled: np.ndarray, widest: int) -> int:
    """Return the width of the band at the beginning, given how much of each line is bright; 0 without one."""
    width = int(np.argmax(np.append(filled, 0) < 0.96))
    if not 0 < width <= widest or width + 2 >= len(filled):
        return 0
    # the line after it may be a mixture
    return width + 1 if filled[width + 1] < filled[width - 1] - 0.04 else 0


def _thick_part(above: np.ndarray, coarse: np.ndarray, longest: int) -> np.ndarray:
    """Return the largest region of ``above`` that stays when thin and glaring things are taken away.

    Args:
        above: bool (w, h).
        coarse: their values.
        longest: side of the image that fractions are of.
    """
    whole = _largest(above)
    gaps = round(_GAPS * longest)
    solid = _filled(whole, gaps)
    core = _opened(solid, round(_SOLID * longest))
    if core.any():
        core = _largest(core)
        glaring = whole & (coarse > _GLARING * np.percentile(coarse[core], 98))
        if glaring.any():  # where the breast encloses it, it is metal or calcium, and filled in again
            solid = _filled(_largest(whole & ~_grown(glaring, 3)), gaps)
    thin = round(_THIN * longest)
    opened = _opened(solid, thin)
    if not opened.any():
        return whole
    # opening rounds corners off: they grow again, while of a line that touches the breast little does
    return _grown(_largest(opened), 2 * max(1, thin // 4) + 1) & solid & whole


def _filled(whole: np.ndarray, gaps: int) -> np.ndarray:
    """Fill what a breast encloses together with its chest wall: fat can be as dark as the background.

    Args:
        whole: bool (w, h), connected.
        gaps: in the skin that are closed first, in pixels.
    """
    box = bounding_box(whole)
    if box is None:
        return whole.copy()
    rim = gaps + 1
    padded = np.pad(whole[within(box)], rim)
    closed = _shrunk(_grown(padded, 2 * gaps + 1), 2 * gaps + 1)
    wall = slice(0, rim) if chest_wall_evidence(whole) <= 0 else slice(-rim, None)
    tall = np.flatnonzero(closed[rim] if wall.start == 0 else closed[-rim - 1])
    closed[wall, tall[0] : tall[-1] + 1] = True
    outside, _ = connected_components(~closed)
    solid = whole.copy()
    solid[within(box)] = (closed | (outside != outside[-1, 0]))[rim:-rim, rim:-rim]
    return solid


def _opened(region: np.ndarray, side: int) -> np.ndarray:
    """Return the pixels of a region that a square of this side inside it covers; the image goes on mirrored."""
    side = max(1, side // 2 * 2 + 1)
    return _grown(_shrunk(region, side), side)


def _grown(region: np.ndarray, side: int) -> np.ndarray:
    """Return the pixels of a region, bool (w, h), and those with one of it in the square of odd side around them.

    A window of v pixels and its neighbour of w pixels make one of v + w: a few steps, each over whole lines of the
    image, are several times as fast as a filter that goes from pixel to pixel.
    """
    grown = np.pad(region, side // 2)
    for axis in (0, 1):
        lines, width = np.moveaxis(grown, axis, 0), 1
        while width < side:
            step = min(width, side - width)
            lines, width = lines[:-step] | lines[step:], width + step
        grown = np.moveaxis(lines, 0, axis)
    return grown


def _shrunk(region: np.ndarray, side: int) -> np.ndarray:
    """Return the pixels of a region, bool (w, h), with nothing but it in the square of odd side around them."""
    return ~_grown(~region, side)


def _largest(region: np.ndarray) -> np.ndarray:
    """Return the largest connected part (across corners, too) of a region."""
    parts, count = connected_components(region, np.ones((3, 3)))
    return region if count < 2 else parts == 1 + np.bincount(parts.ravel())[1:].argmax()


def chest_wall_side(breast: np.ndarray) -> str:
    """Return ``"left"`` or ``"right"``, the more probable one, for a breast, bool (W, H)."""
    return "right" if chest_wall_evidence(breast) > 0 else "left"


def chest_wall_evidence(breast: np.ndarray) -> float:
    """Return on which side the chest wall is: −1 (left) … 1 (right), near 0 where there is no telling.

    At the chest wall the breast is cut off straight, so it is taller there. Heights, from the first to the last
    pixel of a column (a fatty breast has dark holes), are compared at both ends of the breast, over 5 % of its
    width, so that neither a skin fold nor the nipple decides.

    Args:
        breast: bool (W, H).
    """
    columns = breast[breast.any(axis=1)]
    if len(columns) == 0:
        return 0.0
    heights = columns.shape[1] - columns.argmax(axis=1) - columns[:, ::-1].argmax(axis=1)
    band = max(1, round(0.05 * len(columns)))
    left, right = (float(end.sum()) for end in (heights[:band], heights[-band:]))
    return (right - left) / (right + left)


def clear_side(breast: Breast) -> str | None:
    """Return ``"left"`` or ``"right"`` where the chest wall is clearly there, else None."""
    evidence = chest_wall_evidence(breast.inside)
    if abs(evidence) < _SURE:
        return None
    return "right" if evidence > 0 else "left"
