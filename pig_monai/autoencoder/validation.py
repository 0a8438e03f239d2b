"""How well slices of the held-out fold come through an autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.handlers import IgniteMetricHandler, MeanAbsoluteError, PeakSignalToNoiseRatio
from monai.metrics import SSIMMetric
from monai.utils import CommonKeys
from torch import Tensor

from pig_monai.choosing import spread_evenly
from pig_monai.data.folder import Entry, heldout_entries
from pig_monai.diffusion.training import AutocastInferer
from pig_monai.training.validation import ITEMS


def heldout_slices(dataset_dir: str | Path, fold: int) -> list[Entry]:
    """Return at most 64 slices of the held-out fold, annotated or not, evenly spread; none for fold −1.

    Raises:
        PigError: see `pig_monai.data.folder.heldout_entries`.
    """
    entries = heldout_entries(dataset_dir, fold, labelled_only=False, lesion_free=True)
    return spread_evenly(entries, ITEMS)


class Reconstruction(AutocastInferer):
    """Runs slices through an autoencoder: the latents' means, no samples of them, decoded and kept in [−1, 1]."""

    def __call__(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return reconstructions, float32 (B, 1, W, H), of slices (B, 1, W, H)."""
        return super().__call__(inputs, network.reconstruct).clamp(-1, 1)


def unit_range(images: Tensor) -> Tensor:
    """Map slices from [−1, 1] to [0, 1], where PSNR and SSIM are defined: SSIM depends on where black is."""
    return (images + 1) / 2


def slices_and_reconstructions(batch: Mapping[str, Tensor], device: Any, *args: Any, **kwargs: Any) -> Any:
    """Prepare a batch for MONAI's evaluator: slices are what goes in and what should come out."""
    slices = batch[CommonKeys.IMAGE].to(device)
    return slices, slices


def validation_loss() -> dict[str, MeanAbsoluteError]:
    """Return the key metric: the mean absolute error of slices in [−1, 1], which has no discriminator's taste."""
    return {"validation_loss": MeanAbsoluteError(output_transform=_images)}


def further_metrics() -> dict[str, IgniteMetricHandler]:
    """Return MONAI's PSNR (dB) and SSIM, means over the slices, in [0, 1]."""
    ssim = SSIMMetric(spatial_dims=2, data_range=1.0)
    return {
        "psnr": PeakSignalToNoiseRatio(max_val=1.0, output_transform=_units),
        "ssim": IgniteMetricHandler(metric_fn=ssim, output_transform=_units),
    }


def _images(output: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    return output[CommonKeys.PRED], output[CommonKeys.LABEL]


def _units(output: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    return unit_range(output[CommonKeys.PRED]), unit_range(output[CommonKeys.LABEL])
