"""MONAI's transforms that read stored slices for the networks.

Arrays are channel-first (1, W, H), index 1 being the image's column x and index 2 its row y. How slices come to be
stored is `pig_monai.data.prepare_slice`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImage,
    MapTransform,
    SelectItemsd,
    SqueezeDimd,
)

from pig_monai.data.fitting import fit_mask, fit_slice
from pig_monai.errors import PigError

# MONAI's image loading looks for an optional GPU decoder and says twice that it is not there; slices are NIfTI.
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")

IMAGE_KEYS = ("image", "label")


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


class FitToSized(MapTransform):
    """Bring slices and masks to (1, size, size), padded: `fit_slice` and `fit_mask` for tensors.

    Args:
        keys: what to fit, (1, W, H) each; slices in [−1, 1], masks 0/1.
        size: side of the square in pixels.
        kind: ``"slice"`` or ``"mask"`` for each key.
        allow_missing_keys: skip absent keys.
    """

    def __init__(
        self,
        keys: KeysCollection,
        size: int,
        kind: Sequence[str] = ("slice", "mask"),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size = size
        self.kind = tuple(kind)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Fit: float32 tensors."""
        d = dict(data)
        for key, kind in self.key_iterator(d, self.kind):
            values = np.asarray(d[key][0])
            fitted = fit_mask(values > 0.5, self.size) if kind == "mask" else fit_slice(values, self.size)
            d[key] = torch.from_numpy(np.ascontiguousarray(fitted, np.float32))[None]
        return d


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
            FitToSized(keys, image_size, kind, allow_missing_keys=True),
            SelectItemsd(keys, allow_missing_keys=True),  # what else an entry says does not collate
        ]
    )
