"""What happens to a slice between the file that it comes from and the dataset folder, defined once.

Chest wall to the left, cropped to the breast, intensity scaled to [−1, 1], fitted to a square. Arrays are (W, H),
index 0 the image's column x and index 1 its row y. `pig_monai.data.transforms` reads the result for the networks;
`pig_monai.data.geometry` goes the way back. Neither PyTorch nor MONAI is needed for it: their import takes as long
as decoding dozens of frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pig_monai.data.bounding import within
from pig_monai.data.breast import Breast, clear_side, find_breast
from pig_monai.data.fitting import BACKGROUND, fit_mask, fit_slice, fitted_size
from pig_monai.data.geometry import Geometry
from pig_monai.data.volume import DisplayCurve, Window

EACH = "each"
"""Said of a chest wall's side: each slice says for itself."""


@dataclass(frozen=True)
class RawSlice:
    """A slice as its source has it.

    Args:
        image: float32 (W, H) in any unit, larger is brighter; NaN where there is no data.
        mask: bool (W, H); None where nobody labelled it.
        window: how it is displayed, in the image's unit: for ``intensity: window``.
        chest_wall: the side that its volume's is on, ``"left"``, ``"right"``, or None where the pixels do not say;
            `EACH`: to be looked for in this slice.
        turned: whether it was turned by 180°.
    """

    image: np.ndarray
    mask: np.ndarray | None = None
    window: Window | None = None
    chest_wall: str | None = EACH
    turned: bool = False


@dataclass(frozen=True)
class PreparedSlice:
    """A slice as the dataset folder keeps it.

    Args:
        image: float32 (size, size) in [−1, 1].
        label: bool (size, size), or None.
        chest_wall: the side that it was on.
        geometry: what was done to it.
    """

    image: np.ndarray
    label: np.ndarray | None
    chest_wall: str | None
    geometry: Geometry


def prepare_slice(raw: RawSlice, preprocessing: Mapping[str, Any]) -> PreparedSlice:
    """Prepare a slice.

    Args:
        raw: the slice.
        preprocessing: the block of that name in ``datalist.json``: ``size``, ``aspect`` (pad | stretch),
            ``crop``, ``chest_wall`` (left | keep) and ``intensity`` (``kind``: percentile | window, ``low``,
            ``high``).
    """
    size, aspect = preprocessing["size"], preprocessing["aspect"]
    breast = find_breast(raw.image)
    side = clear_side(breast) if raw.chest_wall == EACH else raw.chest_wall
    width, height = raw.image.shape
    crop = (preprocessing["crop"] and breast.box) or (0, 0, width, height)
    mirrored = preprocessing["chest_wall"] == "left" and side == "right"
    kept = (slice(None, None, -1 if mirrored else 1), slice(None))

    image = raw.image[within(crop)]
    if preprocessing["intensity"]["kind"] == "window":
        image, low, high = _as_displayed(image, raw.window)
    else:
        low, high = breast_percentiles(raw.image, breast, preprocessing["intensity"])
    # clipped before pixels are averaged, scaled after it: there are fewer then, and averages are linear
    fitted = fit_slice(clip(image, low, high)[kept], size, aspect, background=low)
    label = None if raw.mask is None else fit_mask(raw.mask[within(crop)][kept], size, aspect)
    geometry = Geometry((width, height), raw.turned, crop, mirrored, fitted_size(image.shape, size, aspect))
    return PreparedSlice(scale(fitted, low, high), label, side, geometry)


def breast_percentiles(image: np.ndarray, breast: Breast, intensity: Mapping[str, Any]) -> tuple[float, float]:
    """Return the percentiles ``low`` and ``high`` of the values inside the breast; without one, of all values."""
    inside = breast.values(image)
    if not len(inside):
        inside = image[~np.isnan(image)]
    dark, bright = (float(v) for v in np.percentile(inside, [intensity["low"], intensity["high"]]))
    if bright <= dark:  # a breast of one value: keep it apart from the background
        dark = float(np.nanmin(image))
    if bright <= dark:  # few pixels are anything but background
        bright = float(np.nanmax(image))
    return dark, bright


def _as_displayed(image: np.ndarray, window: Window | None) -> tuple[np.ndarray, float, float]:
    """Return values, and which of them are displayed as black and as white."""
    assert window is not None
    return (window.brightness(image), 0.0, 1.0) if isinstance(window, DisplayCurve) else (image, *window)


def clip(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Clip to ``low`` … ``high``: float32; what is NaN, without data, becomes ``low``."""
    clipped = np.asarray(np.clip(image, np.float32(low), np.float32(high)), np.float32)
    if np.isnan(clipped.sum()):
        clipped[np.isnan(clipped)] = low
    return clipped


def scale(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Scale ``low`` … ``high`` to [−1, 1], clipped: float32; NaN becomes −1.

    NaN apart, it is MONAI's ``ScaleIntensityRange(low, high, -1, 1, clip=True)``.
    """
    steps = clip(image, low, high) - np.float32(low)
    factor = 2 / (high - low) if high > low else 0.0
    return np.minimum(steps * np.float32(factor) + np.float32(BACKGROUND), np.float32(1))
