"""Networks by name: the only classes that a checkpoint can ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn
from torch.nn import functional as F

from pig_monai.autoencoder.networks import autoencoder_kl
from pig_monai.errors import PigError


class PatchedUNet(nn.Module):
    """A U-Net on patches: each p × p block of pixels becomes the channels of one position, and back at the end.

    The whole net then works at 1/p of the resolution, with no information lost on the way in ("simple
    diffusion", arXiv 2301.11093). At p = 2 a training step of the demo's size is 2.3 times cheaper.

    Args:
        unet: takes (B, in_channels · p², W / p, H / p), returns (B, p², W / p, H / p).
        patch_size: p.
    """

    def __init__(self, unet: nn.Module, patch_size: int) -> None:
        super().__init__()
        self.unet = unet
        self.patch_size = patch_size

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """Return (B, 1, W, H) for ``x`` (B, in_channels, W, H) and ``timesteps`` (B,)."""
        patches = F.pixel_unshuffle(x, self.patch_size).contiguous(memory_format=torch.channels_last)
        return F.pixel_shuffle(self.unet(patches, timesteps), self.patch_size)


def diffusion_unet(
    channels: Sequence[int],
    attention_levels: Sequence[bool],
    num_res_blocks: int,
    num_head_channels: int,
    in_channels: int = 2,
    norm_num_groups: int = 32,
    patch_size: int = 1,
) -> nn.Module:
    """Return MONAI's 2-D `DiffusionModelUNet` with its condition as a second input channel.

    Takes (B, in_channels, W, H) and timesteps (B,), returns (B, 1, W, H); W and H must be divisible by
    patch_size · 2 ** (len(channels) - 1). The arguments are kept as ``network.spec``, so that a checkpoint can
    say how to build it again.

    Args:
        channels: of each level, from full resolution down; divisible by ``norm_num_groups``.
        attention_levels: which levels have self-attention (the middle always has).
        num_res_blocks: residual blocks a level.
        num_head_channels: channels of an attention head.
        in_channels: 2 with a condition; 1 for an unconditional net.
        norm_num_groups: groups of the GroupNorm layers.
        patch_size: 1 works on pixels (the paper), p > 1 on p × p patches (`PatchedUNet`).

    Raises:
        PigError: arguments that do not fit each other.
    """
    try:
        arguments = {
            "channels": [int(c) for c in channels],
            "attention_levels": [bool(a) for a in attention_levels],
            "num_res_blocks": int(num_res_blocks),
            "num_head_channels": int(num_head_channels),
            "in_channels": int(in_channels),
            "norm_num_groups": int(norm_num_groups),
            "patch_size": int(patch_size),
        }
        network: nn.Module = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=in_channels * patch_size**2,
            out_channels=patch_size**2,
            channels=channels,
            attention_levels=attention_levels,
            num_res_blocks=num_res_blocks,
            num_head_channels=num_head_channels,
            norm_num_groups=norm_num_groups,
            use_flash_attention=True,  # fused attention: the same numbers without the attention matrix in memory
        )
    except (ValueError, TypeError, ZeroDivisionError) as cause:
        raise PigError(f"network_def: {cause}", "mend channels, attention_levels or num_head_channels") from cause
    if patch_size > 1:
        network = PatchedUNet(network, patch_size)
    network.spec = {"name": "diffusion_unet", "arguments": arguments}  # type: ignore[assignment]
    return network


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "diffusion_unet": diffusion_unet,
    "autoencoder_kl": autoencoder_kl,
}


def build_network(spec: dict[str, Any]) -> nn.Module:
    """Build a network from its ``spec`` ``{"name", "arguments"}``.

    Raises:
        PigError: an unknown name, or arguments that it does not take.
    """
    if spec.get("name") not in NETWORKS:
        raise PigError(f"network {spec.get('name')!r} is unknown", f"known are {', '.join(NETWORKS)}")
    try:
        return NETWORKS[spec["name"]](**spec["arguments"])
    except TypeError as cause:
        raise PigError(f"network {spec['name']}: {cause}", "use weights of this version of pig_monai") from cause


def check_image_size(network: nn.Module, image_size: int) -> None:
    """Refuse an image size that the network's levels cannot halve."""
    spec: Any = network.spec
    step = spec["arguments"]["patch_size"] * 2 ** (len(spec["arguments"]["channels"]) - 1)
    if image_size % step:
        raise PigError(f"image_size is {image_size}", f"give a multiple of {step} for this network")
