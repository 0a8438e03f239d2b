"""What happens to a slice between the file it comes from and the network, defined once.

`prepare_slices` turns raw pixels into a stored slice: chest wall to the left, cropped to the breast, intensity
scaled to [−1, 1], fitted to a square. `load_slices` reads stored slices for training. Both are composed of
MONAI's transforms; arrays are channel-first (1, W, H), index 1 being the image's column x and index 2 its row y.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.config.type_definitions import NdarrayOrTensor
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    EnsureTyped,
    Flip,
    LoadImage,
    MapTransform,
    Resize,
    ScaleIntensityRange,
    SelectItemsd,
    SpatialCrop,
    SpatialPad,
    SqueezeDimd,
)
from monai.utils import convert_to_dst_type, ensure_tuple_rep
from skimage.measure import label as connected_components

from pig_monai.data.breast import FindBreastd
from pig_monai.data.volume import DisplayCurve
from pig_monai.errors import PigError

# MONAI's image loading looks for an optional GPU decoder and says twice that it is not there; slices are NIfTI.
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")

BACKGROUND = -1.0
"""The value of everything outside the breast in a prepared slice."""

IMAGE_KEYS = ("image", "label")


class ChestWallLeftd(MapTransform):
    """Mirror slices that `FindBreastd` found to have the chest wall on the right.

    Args:
        keys: what to mirror, (1, W, H) each.
        allow_missing_keys: skip absent keys.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mirror = Flip(spatial_axis=0)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Mirror."""
        d = dict(data)
        if d["chest_wall"] == "right":
            for key in self.key_iterator(d):
                d[key] = self.mirror(d[key])
        return d


class CropToBreastd(MapTransform):
    """Crop slices to the bounding box of the breast that `FindBreastd` found; without a breast they stay whole.

    MONAI's `CropForegroundd` does the same and takes a sixth of a large slice's preparation to find the box.

    Args:
        keys: what to crop, (1, W, H) each.
        allow_missing_keys: skip absent keys.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Crop."""
        d = dict(data)
        breast = np.asarray(d["breast"][0])
        edges = [np.flatnonzero(breast.any(axis=1 - axis)) for axis in (0, 1)]
        if all(map(len, edges)):
            crop = SpatialCrop(roi_start=[int(e[0]) for e in edges], roi_end=[int(e[-1]) + 1 for e in edges])
            for key in self.key_iterator(d):
                d[key] = crop(d[key])
        return d


class ScaleInsideBreastd(MapTransform):
    """Scale percentiles of the pixels inside the breast to [−1, 1], clipped; the background and NaN become −1.

    Args:
        keys: slices, (1, W, H) each.
        low: percentile that becomes −1.
        high: percentile that becomes 1.
        breast_key: where the dictionary holds the breast, bool (1, W, H).
        allow_missing_keys: skip absent keys.
    """

    def __init__(
        self,
        keys: KeysCollection,
        low: float = 0.5,
        high: float = 99.5,
        breast_key: str = "breast",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.percentiles = [low, high]
        self.breast_key = breast_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scale."""
        d = dict(data)
        inside = np.asarray(d[self.breast_key])
        for key in self.key_iterator(d):
            values = np.asarray(d[key])
            dark, bright = (float(v) for v in np.percentile(values[inside], self.percentiles))
            if bright <= dark:  # a breast of one value: keep it apart from the background
                dark = float(np.nanmin(values))
            d[key] = _fill(ScaleIntensityRange(dark, bright, BACKGROUND, 1.0, clip=True)(d[key]))
        return d


class ScaleWindowd(MapTransform):
    """Scale the window that came with the slice to [−1, 1], clipped; NaN becomes −1.

    Args:
        keys: slices, (1, W, H) each.
        window_key: where the dictionary holds the `pig_monai.data.volume.Window`, in the slice's unit.
        allow_missing_keys: skip absent keys.
    """

    def __init__(self, keys: KeysCollection, window_key: str = "window", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.window_key = window_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scale."""
        d = dict(data)
        window = d[self.window_key]
        for key in self.key_iterator(d):
            if isinstance(window, DisplayCurve):
                brightness = window.brightness(np.asarray(d[key]))
                shown = convert_to_dst_type(brightness, d[key], dtype=torch.float32)[0]
                low, high = 0.0, 1.0
            else:
                shown, (low, high) = d[key], window
            d[key] = _fill(ScaleIntensityRange(low, high, BACKGROUND, 1.0, clip=True)(shown))
        return d


def _fill(image: NdarrayOrTensor) -> torch.Tensor:
    """Give what is NaN, where the source has no data, the value of the background."""
    return torch.nan_to_num(torch.as_tensor(image), nan=BACKGROUND)


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
        if self.aspect == "stretch":
            return self.size, self.size
        scale = self.size / max(shape[1:])
        width, height = (max(1, round(n * scale)) for n in shape[1:])
        return width, height

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
    out = (resize_slice(mask, size) > 0.5).to(torch.float32)
    binary = np.asarray(mask[0]) > 0.5
    x, y = np.nonzero(binary)
    if len(x) == 0:
        return out
    # labelled in its bounding box: most of a slice holds no mask
    regions = connected_components(binary[x.min() : x.max() + 1, y.min() : y.max() + 1], connectivity=2)
    region = regions[x - x.min(), y - y.min()]
    # the pixel of the result that holds each pixel's centre
    cell_x = np.floor((x + 0.5) * size[0] / binary.shape[0]).astype(int)
    cell_y = np.floor((y + 0.5) * size[1] / binary.shape[1]).astype(int)
    survived = np.unique(region[np.asarray(out[0])[cell_x, cell_y] > 0])
    for lost in np.setdiff1d(region, survived):
        cells = np.stack([cell_x, cell_y])[:, region == lost]
        best, count = np.unique(cells, axis=1, return_counts=True)
        out[0, best[0, count.argmax()], best[1, count.argmax()]] = 1.0
    return out


def scale_intensity(intensity: Mapping[str, Any], keys: KeysCollection = ("image",)) -> MapTransform:
    """Return the transform for the ``intensity`` block of a dataset's ``preprocessing``."""
    if intensity["kind"] == "window":
        return ScaleWindowd(keys)
    return ScaleInsideBreastd(keys, low=intensity["low"], high=intensity["high"])


def prepare_slices(preprocessing: Mapping[str, Any]) -> Compose:
    """Return the transforms from raw pixels to a stored slice.

    The dictionary holds ``"image"`` (1, W, H) in any unit, NaN where there is no data, ``"label"`` (1, W, H) 0/1
    where there is a mask, and ``"window"`` for ``intensity: window``. As a `MetaTensor` the image keeps track of
    its affine, so that the spacing of the result can be read off it.

    Args:
        preprocessing: the block of that name in ``datalist.json``: ``size``, ``aspect`` (pad | stretch),
            ``crop``, ``chest_wall`` (left | keep) and ``intensity`` (``kind``: percentile | window, ``low``,
            ``high``).

    Returns:
        transforms whose result is an ``"image"`` float32 (1, size, size) in [−1, 1], a ``"label"`` 0/1, and
        ``"chest_wall"``, the side on which it was found.
    """
    steps: list[Any] = [
        EnsureTyped(IMAGE_KEYS, dtype=torch.float32, allow_missing_keys=True),
        FindBreastd(),
    ]
    keys = (*IMAGE_KEYS, "breast")
    if preprocessing["chest_wall"] == "left":
        steps.append(ChestWallLeftd(keys, allow_missing_keys=True))
    if preprocessing["crop"]:
        steps.append(CropToBreastd(keys, allow_missing_keys=True))
    steps.append(scale_intensity(preprocessing["intensity"]))
    steps.append(FitToSized(IMAGE_KEYS, preprocessing["size"], preprocessing["aspect"], allow_missing_keys=True))
    return Compose(steps)


class LoadSlicesd(MapTransform):
    """MONAI's `LoadImaged` for stored slices and masks, whose errors name the file.

    Args:
        keys: what to load; ``"image"`` is a slice, any other key a mask, to which belongs what is above 0 (as for
            `pig_monai.data.folder.read_label`).
        allow_missing_keys: skip absent keys.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.load = LoadImage(reader="NibabelReader", image_only=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load the files that ``data`` names: (W, H, 1) each.

        Raises:
            PigError: a file that is no whole NIfTI file, holds no single slice or values that are no numbers;
                or files of one entry that differ in size.
        """
        d = dict(data)
        shapes: dict[str, tuple[int, ...]] = {}
        for key in self.key_iterator(d):
            path = str(d[key])
            values = self._read(path)
            d[key] = values if key == "image" else values > 0
            shapes[path] = tuple(values.shape)
        if len(set(shapes.values())) > 1:
            sizes = " and ".join(f"{path} is {shape[0]} x {shape[1]}" for path, shape in shapes.items())
            raise PigError(sizes, "a slice and its masks must be of one size: prepare the dataset anew")
        return d

    def _read(self, path: str) -> torch.Tensor:
        remedy = "prepare the dataset anew"
        try:
            loaded: torch.Tensor = self.load(path)
        except Exception as cause:  # nibabel, gzip and zlib each raise their own
            raise PigError(f"{path} cannot be read ({type(cause).__name__})", remedy) from cause
        if loaded.ndim != 3 or loaded.shape[2] != 1:
            raise PigError(f"{path} has the shape {tuple(loaded.shape)}, and a slice has (W, H, 1)", remedy)
        if not bool(torch.isfinite(loaded).all()):
            raise PigError(f"{path} holds values that are no numbers", remedy)
        return loaded


def load_slices(image_size: int, keys: Sequence[str] = IMAGE_KEYS) -> Compose:
    """Return the transforms that read stored slices for a network.

    Args:
        image_size: side in pixels; a slice that is stored larger is averaged over areas, a mask follows
            `resize_mask`.
        keys: ``"image"`` is a slice, any other key a mask; keys that an entry lacks are skipped.

    Returns:
        transforms from paths to plain float32 tensors (1, image_size, image_size): the slice in [−1, 1], masks
        0/1.
    """
    kind = ["slice" if key == "image" else "mask" for key in keys]
    return Compose(
        [
            LoadSlicesd(keys, allow_missing_keys=True),
            EnsureChannelFirstd(keys, channel_dim="no_channel", allow_missing_keys=True),
            SqueezeDimd(keys, dim=-1, allow_missing_keys=True),
            EnsureTyped(keys, dtype=torch.float32, track_meta=False, allow_missing_keys=True),
            FitToSized(keys, image_size, kind=kind, allow_missing_keys=True),
            EnsureTyped(keys, dtype=torch.float32, track_meta=False, allow_missing_keys=True),
            SelectItemsd(keys, allow_missing_keys=True),  # what else an entry says does not collate
        ]
    )
