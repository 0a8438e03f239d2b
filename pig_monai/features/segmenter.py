"""What the mass segmenter sees in a slice: the features at the bottom of its U-Net, and its mask.

Slices go the way of inference.yaml (crop, scaling, size), which is read, not repeated; here they come as arrays.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.networks.layers.simplelayers import SkipConnection
from monai.transforms import Compose, LoadImaged
from torch import Tensor, nn

from pig_monai.errors import PigError
from pig_monai.evaluation.engine import read_parts
from pig_monai.evaluation.segmenters import Segmenter
from pig_monai.features.space import FeatureSpace

PRED = "pred"


class SliceSegmenter:
    """A trained segmenter that takes slices as arrays.

    Args:
        segmenter: as `load_segmenter` gives it.
        inference: ``inference.yaml``.
        device: where the network is.
        batch_size: slices at a time; changes speed and memory only.

    Raises:
        PigError: the network is no U-Net of MONAI's: it has no bottom.
    """

    def __init__(self, segmenter: Segmenter, inference: Path, device: str = "cpu", batch_size: int = 8) -> None:
        skips = [module for module in segmenter.network.modules() if isinstance(module, SkipConnection)]
        if not skips:
            raise PigError(
                f"segmenter_ckpt {segmenter.path} is a {type(segmenter.network).__name__}",
                "give a UNet, as train.yaml trains it",
            )
        self.network = segmenter.network
        self.bottom: nn.Module = skips[-1].submodule  # the innermost of the nested levels
        self.device = torch.device(device)
        self.batch_size = batch_size
        parts = read_parts(inference, segmenter.image_size, batch_size, device, [PRED])
        steps: Any = parts.preprocessing
        self.prepare = Compose([step for step in steps.transforms if not isinstance(step, LoadImaged)])
        self.inferer = parts.inferer
        self.finish = Compose([*parts.activations, *parts.masks])

    @property
    def space(self) -> FeatureSpace:
        """The bottom of the U-Net as a feature space."""
        return FeatureSpace("segmenter", "bottom of the mass U-Net", self.features)

    def features(self, slices: np.ndarray) -> np.ndarray:
        """Return the means over the picture of the channels at the bottom: (n, channels) float64.

        Args:
            slices: float32 (n, W, H) in [−1, 1].
        """
        found: list[Tensor] = []
        hook = self.bottom.register_forward_hook(lambda *seen: found.append(seen[2].mean(dim=(2, 3)).cpu()))
        try:
            for items in self._prepared(slices):
                with torch.no_grad():
                    self.network(self._batch(items)[..., 0])
        finally:
            hook.remove()
        return torch.cat(found).double().numpy()

    def masks(self, slices: np.ndarray) -> np.ndarray:
        """Return the masses that the segmenter finds, as inference.yaml would: bool (n, W, H).

        Args:
            slices: float32 (n, W, H) in [−1, 1].
        """
        predicted = []
        for items in self._prepared(slices):
            with torch.no_grad():
                logits = self.inferer(self._batch(items), self.network)
            for item, one in zip(items, logits, strict=True):
                item[PRED] = MetaTensor(one)
                predicted.append(np.asarray(self.finish(item)[PRED].cpu()).reshape(slices.shape[1:]) > 0)
        return np.stack(predicted)

    def _prepared(self, slices: np.ndarray) -> Iterator[list[dict[str, Any]]]:
        for first in range(0, len(slices), self.batch_size):
            yield [self._prepare(image) for image in slices[first : first + self.batch_size]]

    def _prepare(self, image: np.ndarray) -> dict[str, Any]:
        meta = {"original_channel_dim": "no_channel", "spatial_shape": np.array([*image.shape, 1])}
        loaded = MetaTensor(torch.from_numpy(np.ascontiguousarray(image[..., None])), meta=meta)
        prepared: Any = self.prepare({"image": loaded})
        return dict(prepared)

    def _batch(self, items: list[dict[str, Any]]) -> Tensor:
        return torch.stack([item["image"].as_tensor() for item in items]).to(self.device)
