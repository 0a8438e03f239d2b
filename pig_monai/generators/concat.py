"""`concat`: the condition joins the noisy image as further channels (the paper's way, and SegGuidedDiff's)."""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor

from pig_monai.generators.patches import PatchedNetwork


class ConcatUNet(PatchedNetwork):
    """MONAI's 2-D `DiffusionModelUNet` on the noisy image and its condition, side by side.

    Args:
        image_channels: C of the noisy image.
        condition_channels: C' of the condition; 0 for an unconditional net, which ignores it.
        patch_size: see `PatchedNetwork`.
        **unet: the other arguments of `DiffusionModelUNet`.
    """

    def __init__(self, image_channels: int, condition_channels: int, patch_size: int, **unet: Any) -> None:
        super().__init__(patch_size)
        self.condition_channels = condition_channels
        self.unet = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=(image_channels + condition_channels) * patch_size**2,
            out_channels=image_channels * patch_size**2,
            use_flash_attention=True,  # fused attention: the same numbers without the attention matrix in memory
            **unet,
        )

    def _predict(self, noisy: Tensor, timesteps: Tensor, condition: Tensor, spacing: Tensor | None) -> Tensor:
        inputs = torch.cat([noisy, condition], dim=1) if self.condition_channels else noisy
        output: Tensor = self.unet(inputs.contiguous(memory_format=torch.channels_last), timesteps)
        return output
