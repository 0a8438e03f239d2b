"""Bringing slices and masks to the size that the network sees."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Resize, SpatialPad
from monai.utils import ensure_tuple_rep
from skimage.measure import label as connected_components

from pig_monai.data.breast import Box

BACKGROUND = -1.0
"""The value of everything outside the breast in a prepared slice."""


def fitted_size(shape: tuple[int, int], size: int, aspect: str) -> tuple[int, int]:
    """Return the (W, H) that a slice of ``shape`` (W, H) has before it is padded to a square.

    Args:
        shape: of the slice.
        size: side of the square in pixels.
        aspect: ``"pad"`` or ``"stretch"``.
    """
    if aspect == "stretch":
        return size, size
    scale = size / max(shape)
    width, height = (max(1, round(n * scale)) for n in shape)
    return width, height


class FitToSized(MapTransform):
    """Bring slices and masks to (1, size, size).

    Slices are averaged over areas when they shrink (no aliasing) and interpolated when they grow; masks follow
    `resize_mask`. What is padded lies at the right and at the bottom, so the chest wall stays at the left edge.

    Args:
        keys: what to fit, (1, W, H) each; slices in [−1, 1], masks 0/1.
        size: side of the square in pixels.
        aspect: ``"pad"`` keeps the aspect and pads with −1 (masks: 0); ``"stretch"`` fills the square.
        kind: ``"slice"`` or ``"mask"`` for each key.
        allow_missing_keys: skip absent keys.
    """

    def __init__(
        self,
        keys: KeysCollection,
        size: int,
        aspect: str = "pad",
        kind: Sequence[str] = ("slice", "mask"),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size = size
        self.aspect = aspect
        self.kind = ensure_tuple_rep(kind, len(self.keys)) if isinstance(kind, str) else tuple(kind)

    def target(self, shape: Sequence[int]) -> tuple[int, int]:
        """Return the (W, H) that a slice of ``shape`` (1, W, H) has before it is padded."""
        return fitted_size((shape[1], shape[2]), self.size, self.aspect)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Fit."""
        d = dict(data)
        for key, kind in self.key_iterator(d, self.kind):
            target = self.target(d[key].shape)
            if tuple(d[key].shape[1:]) != target:
                d[key] = resize_mask(d[key], target) if kind == "mask" else resize_slice(d[key], target)
            if target != (self.size, self.size):
                value = 0.0 if kind == "mask" else BACKGROUND
                d[key] = SpatialPad((self.size, self.size), method="end", value=value)(d[key])
        return d


def resize_slice(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize a slice (1, W, H): area averages along axes that shrink, bilinear along those that grow."""
    width, height = image.shape[1:]
    smaller = min(size[0], width), min(size[1], height)
    if smaller != (width, height):
        image = torch.as_tensor(Resize(smaller, mode="area")(image))
    if smaller != size:
        image = torch.as_tensor(Resize(size, mode="bilinear")(image))
    return image


def resize_mask(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize a mask (1, W, H) and keep it binary, without losing a lesion.

    A pixel belongs to the result when the mask covers more than half of it. A connected region that covers more
    than half of no pixel, thus would vanish, keeps the pixel that it covers most of.

    Returns:
        float32 0/1, (1, *size).
    """
    binary = np.asarray(mask[0]) > 0.5
    edges = [np.flatnonzero(binary.any(axis=1 - axis)) for axis in (0, 1)]
    if not len(edges[0]):
        return torch.zeros((1, *size))
    # in its bounding box: most of a slice holds no mask
    (left, top), (right, bottom) = ([int(edge[end]) for edge in edges] for end in (0, -1))
    inner = binary[left : right + 1, top : bottom + 1]
    out = torch.from_numpy(_mostly_covered(binary, size, (left, top, right + 1, bottom + 1)))[None]
    regions = connected_components(inner, connectivity=2)
    x, y = np.nonzero(inner)
    region = regions[x, y]
    # the pixel of the result that holds each pixel's centre
    cell_x = np.floor((x + left + 0.5) * size[0] / binary.shape[0]).astype(int)
    cell_y = np.floor((y + top + 0.5) * size[1] / binary.shape[1]).astype(int)
    survived = np.unique(region[np.asarray(out[0])[cell_x, cell_y] > 0])
    for lost in np.setdiff1d(region, survived):
        cells = np.stack([cell_x, cell_y])[:, region == lost]
        best, count = np.unique(cells, axis=1, return_counts=True)
        out[0, best[0, count.argmax()], best[1, count.argmax()]] = 1.0
    return out


def _mostly_covered(mask: np.ndarray, size: tuple[int, int], box: Box) -> np.ndarray:
    """Return which pixels of the result the mask covers more than half of: float32 0/1 of ``size``.

    Areas are exact: MONAI's "area" takes whole pixels, which shifts an outline by up to half of one.

    Args:
        mask: bool (W, H).
        size: of the result; along axes that grow, the mask is interpolated between the middles of its pixels.
        box: encloses the mask.
    """
    if size[0] > mask.shape[0] or size[1] > mask.shape[1]:
        return np.asarray(resize_slice(torch.from_numpy(mask[None].astype(np.float32)), size)[0] > 0.5, np.float32)
    scale = [old / new for old, new in zip(mask.shape, size, strict=True)]
    first = [int(low / by) for low, by in zip(box[:2], scale, strict=True)]
    last = [min(n, math.ceil(high / by)) for high, by, n in zip(box[2:], scale, size, strict=True)]
    area = mask[box[0] : box[2], box[1] : box[3]].astype(np.float64)
    for axis in (0, 1):  # the area up to each edge of the pixels of the result, then that between them
        edges = np.arange(first[axis], last[axis] + 1) * scale[axis] - box[axis]
        edges = np.clip(edges, 0, area.shape[axis])
        whole = np.minimum(edges.astype(int), area.shape[axis] - 1)
        upto = np.insert(area.cumsum(axis), 0, 0, axis)
        part = np.expand_dims(edges - whole, 1 - axis) * area.take(whole, axis)
        area = np.diff(upto.take(whole, axis) + part, axis=axis)
    out = np.zeros(size, np.float32)
    out[first[0] : last[0], first[1] : last[1]] = area > (0.5 + 1e-9) * scale[0] * scale[1]
    return out
