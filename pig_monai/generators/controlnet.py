"""`controlnet`: an unconditional diffusion net that a copy of its encoder, shown the mask, steers (2302.05543)."""

from __future__ import annotations

from typing import Any

from monai.networks.nets import ControlNet, DiffusionModelUNet
from torch import Tensor, nn

from pig_monai.generators.patches import PatchedNetwork

EMBEDDING = (16,)
"""Channels of the branch's first layer: each further entry would halve the resolution, and lose small masks."""


class ControlledUNet(PatchedNetwork):
    """An unconditional `DiffusionModelUNet` and, where there is a condition, MONAI's `ControlNet` beside it.

    The branch starts with zero outputs, so a fresh branch leaves the unconditional net as it was. Where nothing is
    known of the condition (zeros), the branch is silent and the net is unconditional.

    Args:
        image_channels: C of the noisy image.
        condition_channels: C' of the condition; 0 makes no branch: the unconditional net alone.
        patch_size: see `PatchedNetwork`.
        **unet: the other arguments of both networks, which are the same.
    """

    def __init__(self, image_channels: int, condition_channels: int, patch_size: int, **unet: Any) -> None:
        super().__init__(patch_size)
        self.unet = self._make_unet(image_channels * patch_size**2, **unet)
        self.control: nn.Module | None = None
        if condition_channels:
            self.control = self._make_branch(
                image_channels * patch_size**2, condition_channels * patch_size**2, **unet
            )

    def _make_unet(self, image_channels: int, **unet: Any) -> nn.Module:
        return DiffusionModelUNet(
            spatial_dims=2,
            in_channels=image_channels,
            out_channels=image_channels,
            use_flash_attention=True,
            **unet,
        )

    def _make_branch(self, image_channels: int, condition_channels: int, **unet: Any) -> nn.Module:
        return ControlNet(
            spatial_dims=2,
            in_channels=image_channels,
            conditioning_embedding_in_channels=condition_channels,
            conditioning_embedding_num_channels=EMBEDDING,
            use_flash_attention=True,
            **unet,
        )

    def _predict(self, noisy: Tensor, timesteps: Tensor, condition: Tensor, spacing: Tensor | None) -> Tensor:
        down, middle = self._residuals(noisy, timesteps, condition)
        return self._steered(noisy, timesteps, spacing, down, middle)

    def _residuals(
        self, noisy: Tensor, timesteps: Tensor, condition: Tensor
    ) -> tuple[list[Tensor] | None, Tensor | None]:
        """Return what the branch adds to the skip connections and to the middle; None where it is silent."""
        if self.control is None:
            return None, None
        known = (condition != 0).flatten(1).any(dim=1)
        if not known.any():
            return None, None
        down, middle = self.control(noisy, timesteps, condition)
        scale = known.to(noisy.dtype).reshape(-1, 1, 1, 1)
        return [residual * scale for residual in down], middle * scale

    def _steered(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        spacing: Tensor | None,
        down: list[Tensor] | None,
        middle: Tensor | None,
    ) -> Tensor:
        output: Tensor = self.unet(
            noisy, timesteps, down_block_additional_residuals=down, mid_block_additional_residual=middle
        )
        return output

    def start_branch(self) -> None:
        """Copy the unconditional net's encoder into the branch, which then starts from what that has learnt."""
        if self.control is not None:
            own = self.control.state_dict()
            theirs = self.unet.state_dict()
            fits = {name: theirs[name] for name in own if name in theirs and theirs[name].shape == own[name].shape}
            self.control.load_state_dict(fits, strict=False)
