"""How much of a slice comes through an autoencoder: on the whole, around each lesion, and for a segmenter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from monai.metrics import MAEMetric, PSNRMetric, SSIMMetric
from skimage.measure import label, regionprops
from torch import Tensor

from pig_monai.autoencoder.validation import unit_range
from pig_monai.data.folder import Entry, write_label, write_slice
from pig_monai.evaluation.engine import make_evaluator
from pig_monai.evaluation.segmenters import Segmenter
from pig_monai.metrics.segmentation import measure_slice

MARGIN = 8
"""Pixels around a lesion that its crop takes in."""

LEAST_CROP = 16
"""Pixels a side of the smallest crop: SSIM's window has 11."""

Box = tuple[slice, slice]


@dataclass(frozen=True)
class Likeness:
    """A reconstruction against its slice.

    Args:
        psnr: peak signal-to-noise ratio, dB.
        ssim: structural similarity, Gaussian window of 11 pixels (Wang et al. 2004).
        mae: mean absolute error, of slices in [−1, 1].
    """

    psnr: float
    ssim: float
    mae: float


def likeness(true: Tensor, made: Tensor) -> Likeness:
    """Compare two slices or parts of them, (W, H) in [−1, 1] and at least 11 pixels a side, by MONAI's metrics."""
    pair = made[None, None].double(), true[None, None].double()
    units = unit_range(pair[0]), unit_range(pair[1])
    return Likeness(
        psnr=float(PSNRMetric(max_val=1.0)(*units)),  # type: ignore[arg-type]
        ssim=float(SSIMMetric(spatial_dims=2, data_range=1.0)(*units)),  # type: ignore[arg-type]
        mae=float(MAEMetric()(*pair)),  # type: ignore[arg-type]
    )


def lesion_crops(mask: np.ndarray) -> list[Box]:
    """Return a box around each lesion, an 8-connected part of the mask, with a margin.

    Args:
        mask: bool (W, H), at least 16 pixels a side; boxes at its border are moved inwards.
    """
    return [
        (_span(box[0], box[2], mask.shape[0]), _span(box[1], box[3], mask.shape[1]))
        for box in (part.bbox for part in regionprops(label(mask, connectivity=2)))
    ]


def _span(begin: int, end: int, size: int) -> slice:
    length = min(max(end - begin + 2 * MARGIN, LEAST_CROP), size)
    first = min(max((begin + end - length) // 2, 0), size - length)
    return slice(first, first + length)


@dataclass(frozen=True)
class SegmentedImage:
    """A slice for a segmenter.

    Args:
        image: float (W, H) in [−1, 1].
        mask: bool (W, H), the truth.
        spacing: mm, or None.
    """

    image: np.ndarray
    mask: np.ndarray
    spacing: Sequence[float] | None


def dice_of(
    segmenter: Segmenter, images: Sequence[SegmentedImage], inference: Path, device: str, batch_size: int
) -> list[float]:
    """Return the segmenter's Dice on each image, NaN without a lesion, by the steps of ``inference.yaml``.

    The images are written to a temporary folder: a user's slices are files, too, and take the same way.

    Args:
        segmenter: the network.
        images: any.
        inference: ``inference.yaml``.
        device: where to infer.
        batch_size: images at a time.
    """
    dice = [float("nan")] * len(images)

    def on_slice(index: int, truth: np.ndarray, prediction: np.ndarray) -> None:
        dice[index] = measure_slice(truth, prediction, None).dice

    with TemporaryDirectory() as folder:
        entries = [_written(one, Path(folder) / str(number)) for number, one in enumerate(images)]
        make_evaluator([segmenter], entries, inference, device, batch_size, on_slice).run()
    return dice


def _written(one: SegmentedImage, folder: Path) -> Entry:
    entry: dict[str, Any] = {"image": str(folder / "image.nii.gz"), "label": str(folder / "label.nii.gz")}
    write_slice(entry["image"], one.image, one.spacing)
    write_label(entry["label"], one.mask, one.spacing)
    return entry
