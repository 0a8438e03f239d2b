"""The way back from a prepared slice to the slice that its source stores.

`pig_monai.data.prepare_slice` goes there: a slice is turned by 180° where its volume was, cropped to
the breast, mirrored where its chest wall was on the right, resized, and padded at the right and at the bottom. An
entry of a datalist says under ``"geometry"`` which of these happened; here they are undone. Turning, mirroring,
the crop and the padding come back exactly. A mask that was resized comes back with its boundary within one
prepared pixel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pig_monai.data.bounding import Box, within
from pig_monai.data.fitting import BACKGROUND, resize_mask, resize_slice
from pig_monai.data.folder import is_geometry
from pig_monai.errors import PigError


@dataclass(frozen=True)
class Geometry:
    """What happened to a slice, in this order.

    Args:
        source: (W, H) of the slice that the source stores, in pixels: columns, rows.
        turned: whether it was turned by 180°.
        crop: (x0, y0, x1, y1) of the turned slice that was kept, x1 and y1 the first pixels beyond.
        mirrored: whether what was kept was mirrored: its columns the other way round.
        fitted: (W, H) to which that was resized, before it was padded.
    """

    source: tuple[int, int]
    turned: bool
    crop: Box
    mirrored: bool
    fitted: tuple[int, int]

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Geometry:
        """Read the geometry of an entry of a datalist.

        Raises:
            PigError: it has none, or none that can be.
        """
        what = f"the entry of {entry.get('image', 'a slice')}"
        block = entry.get("geometry")
        if block is None:
            raise PigError(
                f"{what} has no geometry", "prepare its dataset afresh: version 0.1.0 kept none, nor do pairs"
            )
        if not is_geometry(block):
            raise PigError(f"{what} has a geometry that cannot be", "prepare its dataset afresh")
        (w, h), (x0, y0, x1, y1), (fw, fh) = block["source"], block["crop"], block["fitted"]
        return cls((w, h), block["turned"], (x0, y0, x1, y1), block["mirrored"], (fw, fh))

    @property
    def cropped(self) -> tuple[int, int]:
        """(W, H) of what was kept, in pixels of the source."""
        x0, y0, x1, y1 = self.crop
        return x1 - x0, y1 - y0

    def spacing(self, source: tuple[float, float]) -> list[float]:
        """Return the [sx, sy] in mm of the prepared slice's pixels, given those of the source's."""
        steps = zip(source, self.cropped, self.fitted, strict=True)
        return [round(spacing * before / after, 6) for spacing, before, after in steps]

    def to_entry(self) -> dict[str, Any]:
        """Return the block that an entry keeps."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def undo_mask(mask: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    """Bring a mask on a prepared slice back to the slice that the source stores.

    Args:
        mask: bool (size, size), index 0 the column, on the grid of the prepared slice: a label, or a prediction.
        entry: of the datalist.

    Returns:
        bool (W, H) on the grid of the stored slice (`pig_monai.data.volume.Volume`), False outside the crop.

    Raises:
        PigError: the entry has no geometry, or the mask is not of the prepared slice's size.
    """
    geometry = Geometry.of(entry)
    part = _unpadded(np.asarray(mask) > 0, geometry)
    return _placed(resize_mask(part, geometry.cropped), geometry, False)


def undo_slice(image: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    """Bring what is on the grid of a prepared slice back to the slice that the source stores.

    Args:
        image: float (size, size), index 0 the column; values stay what they are: a slice in [−1, 1], or
            probabilities.
        entry: of the datalist.

    Returns:
        float32 (W, H), −1 outside the crop.

    Raises:
        PigError: as `undo_mask`.
    """
    geometry = Geometry.of(entry)
    part = np.asarray(_unpadded(np.asarray(image), geometry), np.float32)
    return _placed(resize_slice(part, geometry.cropped), geometry, BACKGROUND)


def _unpadded(image: np.ndarray, geometry: Geometry) -> np.ndarray:
    size = max(geometry.fitted)
    if image.shape != (size, size):
        shape = " × ".join(map(str, image.shape))
        raise PigError(
            f"a slice of {shape} is given for an entry prepared at {size} × {size}",
            "give it on the grid of the prepared slice",
        )
    return image[: geometry.fitted[0], : geometry.fitted[1]]


def _placed(part: np.ndarray, geometry: Geometry, outside: float) -> np.ndarray:
    """Put what was cropped back, as it lay."""
    whole = np.full(geometry.source, outside, part.dtype)
    whole[within(geometry.crop)] = part[::-1] if geometry.mirrored else part
    return np.ascontiguousarray(whole[::-1, ::-1]) if geometry.turned else whole
