"""`maisi`: MAISI's pair of networks (arXiv 2409.11169), which are told the pixel spacing as well as the mask."""

from __future__ import annotations

from typing import Any

import torch
from monai.apps.generation.maisi.networks.controlnet_maisi import ControlNetMaisi
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from torch import Tensor, nn

from pig_monai.generators.controlnet import EMBEDDING, ControlledUNet

SPACING_UNIT = 0.1
"""mm: what the networks are told a spacing in, so that the numbers are near 1."""


class SteeredUNetMaisi(DiffusionModelUNetMaisi):
    """MAISI's net that adds a branch's residuals to copies of its skip connections.

    MAISI's own adds in place: that breaks the gradient of a net that is trained along with its branch, and lets
    the last residual slip into the middle of the net as well.
    """

    def _apply_down_blocks(
        self, h: Tensor, emb: Tensor, context: Tensor | None, down_block_additional_residuals: list[Tensor] | None
    ) -> tuple[Tensor, list[Tensor]]:
        h, skips = super()._apply_down_blocks(h, emb, context, None)
        if down_block_additional_residuals is not None:
            skips = [skip + more for skip, more in zip(skips, down_block_additional_residuals, strict=True)]
        return h, skips


class MaisiUNet(ControlledUNet):
    """`DiffusionModelUNetMaisi` with its spacing input, and `ControlNetMaisi` beside it; 2-D.

    MAISI runs on latents, and so it does here with an autoencoder; it runs on pixels without one.
    Arguments as of `ControlledUNet`.
    """

    def _make_unet(self, image_channels: int, **unet: Any) -> nn.Module:
        return SteeredUNetMaisi(
            spatial_dims=2,
            in_channels=image_channels,
            out_channels=image_channels,
            include_spacing_input=True,
            use_flash_attention=torch.cuda.is_available(),  # it refuses the fused attention on a CPU
            **_renamed(unet),
        )

    def _make_branch(self, image_channels: int, condition_channels: int, **unet: Any) -> nn.Module:
        return ControlNetMaisi(
            spatial_dims=2,
            in_channels=image_channels,
            conditioning_embedding_in_channels=condition_channels,
            conditioning_embedding_num_channels=EMBEDDING,
            use_checkpointing=False,
            use_flash_attention=torch.cuda.is_available(),
            **_renamed(unet),
        )

    def _steered(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        spacing: Tensor | None,
        down: list[Tensor] | None,
        middle: Tensor | None,
    ) -> Tensor:
        mm = noisy.new_zeros(len(noisy), 2) if spacing is None else spacing.to(noisy)
        output: Tensor = self.unet(
            noisy,
            timesteps,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            # the third number is the slices' distance, of which a slice knows nothing
            spacing_tensor=torch.cat([mm / SPACING_UNIT, torch.ones_like(mm[:, :1])], dim=1),
        )
        return output


def _renamed(unet: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments by MAISI's names: what is ``channels`` elsewhere is ``num_channels`` there."""
    return {"num_channels" if name == "channels" else name: value for name, value in unet.items()}
