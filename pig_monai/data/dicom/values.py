"""What stored numbers mean: rescale, lookup tables, padding, MONOCHROME1, display windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from pig_monai.data.dicom.files import EXPORT_AGAIN
from pig_monai.data.dicom.geometry import group
from pig_monai.data.volume import DisplayCurve, UnusableError, Window

VALUE_TAGS = [
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
]
_PERCENTILE = "use --intensity percentile"


@dataclass(frozen=True)
class Table:
    """A lookup table: the value at ``first + i`` is ``values[i]``; beyond its ends, the end's."""

    first: int
    values: np.ndarray
    bits: int

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """Look numbers up, the nearest entry each; NaN stays NaN."""
        index = np.nan_to_num(np.rint(numbers) - self.first)
        found = self.values[np.clip(index, 0, len(self.values) - 1).astype(np.int64)].astype(np.float32)
        return np.where(np.isnan(numbers), np.float32(np.nan), found)


def _table(item: Dataset, signed: bool) -> Table:
    """Read a lookup table (PS3.3 C.11.1.1): entries of 8 or 16 bits, as many as the descriptor says."""
    count, first, bits = (int(v) for v in item.LUTDescriptor)
    count = count % 2**16 or 2**16
    if signed:
        first = (first + 2**15) % 2**16 - 2**15
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if item.original_encoding[1] is not False else ">"
        data = np.frombuffer(data[: len(data) // 2 * 2], f"{order}u2")
    values = np.atleast_1d(np.asarray(data, dtype=np.int64)) % 2**16  # some writers declare the entries signed
    if bits <= 8 and len(values) == (count + 1) // 2:  # two entries in a word
        values = np.stack([values % 256, values // 256], axis=1).ravel()
    if len(values) < count or not 1 <= bits <= 16:
        raise UnusableError("its lookup table is shorter than it claims", EXPORT_AGAIN)
    return Table(first, values[:count], bits)


class Values:
    """The values of an object's frames.

    Args:
        ds: the header, from `pig_monai.data.dicom.files.read_tags`.
    """

    def __init__(self, ds: Dataset) -> None:
        self.ds = ds
        self.signed = ds.PixelRepresentation == 1
        self.inverted = ds.PhotometricInterpretation == "MONOCHROME1"
        self.padding = self._padding()
        modality = ds.get("ModalityLUTSequence")
        self.modality = _table(modality[0], self.signed) if modality else None

    def _padding(self) -> tuple[int, int] | None:
        """Return the (lowest, highest) stored number that stands for no data."""
        ends = [self.ds.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
        numbers = [self._stored_number(end) for end in ends if end is not None and end != ""]
        return (min(numbers), max(numbers)) if ends[0] is not None and numbers else None

    def _stored_number(self, value: Any) -> int:
        """Read a number of the pixels' type, which writers (and readers of implicit VR) give the wrong sign."""
        number = int.from_bytes(value, "little") if isinstance(value, bytes) else int(value)
        size = 2 ** int(self.ds.BitsAllocated)
        return (number + size // 2) % size - size // 2 if self.signed else number % size

    def apply(self, stored: np.ndarray, frame: int) -> np.ndarray:
        """Turn stored numbers into values: float32, larger is brighter, NaN where there is only padding."""
        if self.modality is not None:
            values = self.modality(stored)
        else:
            slope, intercept = self._rescale(frame)
            values = stored.astype(np.float32)
            if (slope, intercept) != (1, 0):
                values *= np.float32(slope)
                values += np.float32(intercept)
        if self.inverted:
            np.subtract(np.float32(self._mirror(frame)), values, out=values)
        if self.padding is not None:
            values[(stored >= self.padding[0]) & (stored <= self.padding[1])] = np.nan
        return values

    def _rescale(self, frame: int) -> tuple[float, float]:
        own = group(self.ds, "PixelValueTransformationSequence", frame)
        slope, intercept = (own.get(name, self.ds.get(name)) for name in ("RescaleSlope", "RescaleIntercept"))
        return float(1 if slope is None else slope), float(0 if intercept is None else intercept)

    def _mirror(self, frame: int) -> float:
        """Return m where brightness is m − value: values are mirrored in the range that the stored bits hold."""
        if self.modality is not None:
            return float(self.modality.values.min() + self.modality.values.max())
        slope, intercept = self._rescale(frame)
        lowest_plus_highest = -1 if self.signed else 2 ** int(self.ds.BitsStored) - 1
        return slope * lowest_plus_highest + 2 * intercept

    def window(self, frame: int) -> Window | None:
        """Return how a frame is displayed (PS3.3 C.11.2.1), in the unit of `apply`; None where nothing says.

        The frame's own functional group comes before the shared one and the top level; there, as in pydicom, a
        lookup table before a window; of several, the first.

        Raises:
            UnusableError: the window is unusable.
        """
        source = self._display(frame)
        if source is None:
            return None
        window = _lut_curve(source, self.signed) if source.get("VOILUTSequence") else _window(source)
        if not self.inverted:
            return window
        mirror = self._mirror(frame)
        if isinstance(window, DisplayCurve):
            return window.mirrored(mirror)
        return mirror - window[1], mirror - window[0]

    def window_remark(self) -> str | None:
        """Return what the report should say about the choice of the window."""
        source = self._display(0)
        if source is None:
            return None
        tables, windows = len(source.get("VOILUTSequence") or []), np.size(source.get("WindowCenter", []))
        if tables + windows < 2:
            return None
        return f"the first of {tables or windows} display {'tables' if tables else 'windows'} is used"

    def _display(self, frame: int) -> Dataset | None:
        for source in (group(self.ds, "FrameVOILUTSequence", frame), self.ds):
            if source.get("VOILUTSequence") or source.get("WindowCenter") not in (None, ""):
                return source
        return None


def _window(source: Dataset) -> Window:
    centres, widths = (np.atleast_1d(source.get(name, [])) for name in ("WindowCenter", "WindowWidth"))
    if not len(widths):
        raise UnusableError("its display window has no width", _PERCENTILE)
    centre, width = float(centres[0]), float(widths[0])
    kind = str(source.get("VOILUTFunction") or "LINEAR").strip().upper()
    if kind not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise UnusableError("its display window is of an unknown kind", _PERCENTILE)
    if kind == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if not (width > 0 and np.isfinite([centre, width]).all()):
        raise UnusableError("its display window has no width", _PERCENTILE)
    if kind == "SIGMOID":
        return DisplayCurve(_sigmoid(centre, width))
    return centre - width / 2, centre + width / 2


def _sigmoid(centre: float, width: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return PS3.3 C.11.2.1.3.1 with an output range of 0 to 1."""

    def brightness(values: np.ndarray) -> np.ndarray:
        steps = np.clip(-4 * (values - np.float32(centre)) / np.float32(width), -80, 80)
        return 1 / (1 + np.exp(steps))

    return brightness


def _lut_curve(source: Dataset, signed: bool) -> DisplayCurve:
    table = _table(source.VOILUTSequence[0], signed)
    top = np.float32(2**table.bits - 1)
    return DisplayCurve(lambda values: table(values) / top)
