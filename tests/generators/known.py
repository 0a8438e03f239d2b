"""Small networks of every kind, and random weights: a fresh net's output layer is zero, and hides everything."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pig_monai.networks import diffusion_network
from tests.diffusion.toy import rng

UNET: dict[str, Any] = {
    "channels": [8, 16],
    "attention_levels": [False, True],
    "num_res_blocks": 1,
    "num_head_channels": 8,
    "norm_num_groups": 4,
}


def network(kind: str, **arguments: Any) -> nn.Module:
    """A network as a training starts with it, in float64."""
    torch.manual_seed(0)
    return diffusion_network(kind, **UNET, **arguments).double().eval()


def randomise(module: nn.Module, seed: int = 1) -> None:
    """Give every parameter a random value, those that start at zero too."""
    with torch.no_grad():
        for parameter in module.parameters():
            values = torch.randn(parameter.shape, generator=rng(seed + parameter.numel()), dtype=torch.float64)
            parameter.copy_(0.15 * values)


def images(key: int, channels: int = 1, count: int = 3) -> Tensor:
    return torch.randn(count, channels, 8, 8, generator=rng(key), dtype=torch.float64)


def masks(key: int, channels: int = 1, count: int = 3) -> Tensor:
    return torch.randn(count, channels, 8, 8, generator=rng(key), dtype=torch.float64).sign()


TIMES = torch.tensor([0, 400, 1023])
