"""MONAI's autoencoder for slices, by a factory whose arguments a checkpoint can keep."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from pig_monai.errors import PigError


class PatchedAutoencoderKL(AutoencoderKL):
    """MONAI's 2-D `AutoencoderKL` without attention, on patches.

    Each p × p block of pixels becomes the channels of one position, and back at the end: the most expensive level,
    that of all pixels, is spared. At p = 1 it is MONAI's network as it is.

    Args:
        patch_size: p.
        channels: see `autoencoder_kl`.
        latent_channels: see `autoencoder_kl`.
        num_res_blocks: see `autoencoder_kl`.
        norm_num_groups: see `autoencoder_kl`.
    """

    def __init__(
        self,
        patch_size: int,
        channels: Sequence[int],
        latent_channels: int,
        num_res_blocks: int,
        norm_num_groups: int,
    ) -> None:
        super().__init__(
            spatial_dims=2,
            in_channels=patch_size**2,
            out_channels=patch_size**2,
            channels=channels,
            latent_channels=latent_channels,
            num_res_blocks=num_res_blocks,
            norm_num_groups=norm_num_groups,
            attention_levels=[False] * len(channels),
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
        )
        self.patch_size = patch_size
        self.factor = patch_size * 2 ** (len(channels) - 1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return μ and σ of the latents, (B, c, W / f, H / f) each, for slices (B, 1, W, H)."""
        patches = F.pixel_unshuffle(x, self.patch_size).contiguous(memory_format=torch.channels_last)
        mu, sigma = super().encode(patches)
        return mu, sigma

    def decode(self, z: Tensor) -> Tensor:
        """Return slices (B, 1, W, H) for latents (B, c, W / f, H / f)."""
        return F.pixel_shuffle(super().decode(z), self.patch_size)


def autoencoder_kl(
    channels: Sequence[int],
    latent_channels: int,
    num_res_blocks: int,
    norm_num_groups: int = 16,
    patch_size: int = 1,
) -> PatchedAutoencoderKL:
    """Return MONAI's 2-D `AutoencoderKL` for slices, without attention: any size that the factor divides works.

    Its latents are smaller than the slice by the factor f = patch_size · 2 ** (len(channels) - 1) on either side.
    The arguments are kept as ``network.spec``, so that a checkpoint can say how to build it again.

    Args:
        channels: of each level, from the finest down; divisible by ``norm_num_groups``.
        latent_channels: c, of the latents.
        num_res_blocks: residual blocks a level.
        norm_num_groups: groups of the GroupNorm layers.
        patch_size: 1 works on pixels, p > 1 on p × p patches.

    Raises:
        PigError: arguments that do not fit each other.
    """
    try:
        arguments = {
            "channels": [int(c) for c in channels],
            "latent_channels": int(latent_channels),
            "num_res_blocks": int(num_res_blocks),
            "norm_num_groups": int(norm_num_groups),
            "patch_size": int(patch_size),
        }
        network = PatchedAutoencoderKL(**arguments)  # type: ignore[arg-type]
    except (ValueError, TypeError, ZeroDivisionError) as cause:
        raise PigError(f"network_def: {cause}", "mend channels, latent_channels or norm_num_groups") from cause
    network.spec = {"name": "autoencoder_kl", "arguments": arguments}  # type: ignore[assignment]
    return network
