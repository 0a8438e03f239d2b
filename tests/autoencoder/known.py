"""A small autoencoder with random weights, and what its checkpoint says of it."""

from __future__ import annotations

from typing import Any

import torch

from pig_monai.autoencoder.latents import Autoencoder
from pig_monai.autoencoder.networks import PatchedAutoencoderKL, autoencoder_kl


def network(patch_size: int = 1, seed: int = 0) -> PatchedAutoencoderKL:
    torch.manual_seed(seed)
    return autoencoder_kl(
        [8, 16, 16], latent_channels=3, num_res_blocks=1, norm_num_groups=4, patch_size=patch_size
    )


def meta(net: PatchedAutoencoderKL, mean: list[float], std: list[float]) -> dict[str, Any]:
    return {
        "role": "autoencoder",
        "network": net.spec,
        "image_size": 32,
        "preprocessing": {"size": 32},
        "spacing": None,
        "fold": 0,
        "data": "f" * 64,
        "origin": ["phantom"],
        "iteration": 3,
        "settings": {},
        "versions": {},
        "latent": {"factor": 4, "channels": 3, "mean": mean, "std": std},
    }


def autoencoder(amp: bool = False) -> Autoencoder:
    net = network()
    return Autoencoder(net, meta(net, [0.5, -2.0, 100.0], [2.0, 0.25, 3.0]), "cpu", amp, sha256="e" * 64)
