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
    ScaleIntensityRange,
    SelectItemsd,
    SpatialCrop,
    SqueezeDimd,
)
from monai.utils import convert_to_dst_type

from pig_monai.data.breast import Breast, FindBreastd
from pig_monai.data.fitting import BACKGROUND, FitToSized
from pig_monai.data.volume import DisplayCurve
from pig_monai.errors import PigError

# MONAI's image loading looks for an optional GPU decoder and says twice that it is not there; slices are NIfTI.
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")

IMAGE_KEYS = ("image", "label")


class ChestWallLeftd(MapTransform):
    """Mirror slices whose ``"chest_wall"`` is on the right, and say so under ``"mirrored"``.

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
        d["mirrored"] = d["chest_wall"] == "right"
        if d["mirrored"]:
            for key in self.key_iterator(d):
                d[key] = self.mirror(d[key])
        return d


class CropToBreastd(MapTransform):
    """Crop slices to the bounding box of the breast that `FindBreastd` found; without a breast they stay whole.

    The box is added as ``"crop"``.

    Args:
        keys: what to crop, (1, W, H) each.
        allow_missing_keys: skip absent keys.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Crop."""
        d = dict(data)
        breast: Breast = d["breast"]
        box = breast.box
        if box is not None:
            crop = SpatialCrop(roi_start=box[:2], roi_end=box[2:])
            for key in self.key_iterator(d):
                d[key] = crop(d[key])
            d["breast"], d["crop"] = breast.cropped(box), box
        return d


class ScaleInsideBreastd(MapTransform):
    """Scale percentiles of the pixels inside the breast to [−1, 1], clipped; the background and NaN become −1.

    Args:
        keys: slices, (1, W, H) each.
        low: percentile that becomes −1.
        high: percentile that becomes 1.
        breast_key: where the dictionary holds the `Breast`.
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
        breast: Breast = d[self.breast_key]
        for key in self.key_iterator(d):
            values = np.asarray(d[key][0])
            inside = breast.values(values)
            if not len(inside):
                inside = values[~np.isnan(values)]
            dark, bright = (float(v) for v in np.percentile(inside, self.percentiles))
            if bright <= dark:  # a breast of one value: keep it apart from the background
                dark = float(np.nanmin(values))
            d[key] = _scaled(d[key], dark, bright)
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
            d[key] = _scaled(shown, low, high)
        return d


def _scaled(image: NdarrayOrTensor, low: float, high: float) -> torch.Tensor:
    """Scale ``low`` … ``high`` to [−1, 1], clipped; what is NaN, without data, gets the background's value.

    It is MONAI's `ScaleIntensityRange`, which a window of no width takes, in one copy of a large slice, not six.
    """
    if not high > low:
        scaled = ScaleIntensityRange(low, high, BACKGROUND, 1.0, clip=True)(image)
        return torch.nan_to_num(torch.as_tensor(scaled), nan=BACKGROUND)
    scaled = torch.as_tensor(image) - low
    return scaled.mul_(2 / (high - low)).add_(BACKGROUND).clamp_(BACKGROUND, 1).nan_to_num_(nan=BACKGROUND)


def scale_intensity(intensity: Mapping[str, Any], keys: KeysCollection = ("image",)) -> MapTransform:
    """Return the transform for the ``intensity`` block of a dataset's ``preprocessing``."""
    if intensity["kind"] == "window":
        return ScaleWindowd(keys)
    return ScaleInsideBreastd(keys, low=intensity["low"], high=intensity["high"])


def prepare_slices(preprocessing: Mapping[str, Any]) -> Compose:
    """Return the transforms from raw pixels to a stored slice.

    The dictionary holds ``"image"`` (1, W, H) in any unit, NaN where there is no data, ``"label"`` (1, W, H) 0/1
    where there is a mask, ``"window"`` for ``intensity: window``, and ``"chest_wall"`` (left | right | None) where
    that of the volume is known. As a `MetaTensor` the image keeps track of its affine, so that the spacing of the
    result can be read off it. `pig_monai.data.geometry` goes the way back.

    Args:
        preprocessing: the block of that name in ``datalist.json``: ``size``, ``aspect`` (pad | stretch),
            ``crop``, ``chest_wall`` (left | keep) and ``intensity`` (``kind``: percentile | window, ``low``,
            ``high``).

    Returns:
        transforms whose result is an ``"image"`` float32 (1, size, size) in [−1, 1], a ``"label"`` 0/1, and
        ``"chest_wall"``, if not given the side on which it clearly is, or None; as far as it was done, ``"crop"``,
        the box, and ``"mirrored"``, whether the cropped slice was.
    """
    steps: list[Any] = [
        EnsureTyped("image", dtype=torch.float32),
        EnsureTyped("label", allow_missing_keys=True),
        FindBreastd(),
    ]
    if preprocessing["crop"]:
        steps.append(CropToBreastd(IMAGE_KEYS, allow_missing_keys=True))
    steps.append(scale_intensity(preprocessing["intensity"]))
    if preprocessing["chest_wall"] == "left":
        steps.append(ChestWallLeftd(IMAGE_KEYS, allow_missing_keys=True))
    steps.append(FitToSized(IMAGE_KEYS, preprocessing["size"], preprocessing["aspect"], allow_missing_keys=True))
    steps.append(EnsureTyped(IMAGE_KEYS, dtype=torch.float32, allow_missing_keys=True))
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
            `pig_monai.data.fitting.resize_mask`.
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
