"""Pictures of slices with their masks outlined: for reports, and to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy.ndimage import binary_dilation

Colour = tuple[int, int, int]

OUTLINE: Colour = (255, 140, 0)
_GAP = 4


def contact_sheet(
    slices: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None],
    columns: int = 6,
    scale: float = 1.0,
) -> Image.Image:
    """Lay slices out in a grid, each with its mask's outline around the lesion.

    Args:
        slices: float (W, H) in [−1, 1], index 0 the image's column; shown upright.
        masks: bool (W, H) or None, one for each slice.
        columns: tiles in a row.
        scale: pixels of the sheet for a pixel of a slice.

    Returns:
        an RGB picture; one black pixel square where there is no slice.
    """
    return lay_out([tile(image, mask, scale) for image, mask in zip(slices, masks, strict=True)], columns)


def lay_out(tiles: Sequence[Image.Image], columns: int = 6) -> Image.Image:
    """Lay pictures out in a grid with ``columns`` in a row; one black pixel where there is none."""
    if not tiles:
        return Image.new("RGB", (1, 1))
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    width = max(one.width for one in tiles) + _GAP
    height = max(one.height for one in tiles) + _GAP
    sheet = Image.new("RGB", (columns * width - _GAP, rows * height - _GAP), (64, 64, 64))
    for number, one in enumerate(tiles):
        sheet.paste(one, (number % columns * width, number // columns * height))
    return sheet


def magnification(wanted: float, size: int) -> float:
    """Return the scale that brings ``size`` pixels to about ``wanted``: a whole number where it enlarges."""
    return max(1.0, float(round(wanted / size))) if wanted >= size else wanted / size


def tile(image: np.ndarray, mask: np.ndarray | None, scale: float = 1.0) -> Image.Image:
    """Draw one slice, upright, with the outline just outside its mask; arguments as for `contact_sheet`."""
    return outlined(image, [] if mask is None else [(mask, OUTLINE)], scale)


def outlined(image: np.ndarray, masks: Sequence[tuple[np.ndarray, Colour]], scale: float = 1.0) -> Image.Image:
    """Draw one slice, upright, with several masks outlined.

    Args:
        image: float (W, H) in [−1, 1].
        masks: bool (W, H), each with the colour of its outline; later ones are drawn over earlier ones.
        scale: pixels of the picture for a pixel of the slice.
    """
    grey = np.rint((np.clip(image, -1, 1) + 1) * 127.5).astype(np.uint8).T
    size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
    picture = Image.fromarray(grey).resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR)
    pixels = np.asarray(picture.convert("RGB")).copy()
    for mask, colour in masks:
        if mask.any():
            shown = _shown_mask(mask.T, size)
            pixels[binary_dilation(shown) & ~shown] = colour
    return Image.fromarray(pixels)


def _shown_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale a mask (rows, columns) to ``size`` (width, height); whatever is touched counts: small lesions show."""
    cover = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
    return np.asarray(cover) > 0
