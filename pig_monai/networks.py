"""Networks by name: the only ones that a checkpoint can ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from pig_monai.autoencoder.networks import autoencoder_kl
from pig_monai.errors import PigError
from pig_monai.generators.concat import ConcatUNet
from pig_monai.generators.controlnet import ControlledUNet
from pig_monai.generators.maisi import MaisiUNet

GENERATORS: dict[str, type[ConcatUNet] | type[ControlledUNet]] = {
    "concat": ConcatUNet,
    "controlnet": ControlledUNet,
    "maisi": MaisiUNet,
}
"""The kinds of a generator; a guider is a ``concat``."""


def diffusion_network(
    name: str,
    channels: Sequence[int],
    attention_levels: Sequence[bool],
    num_res_blocks: int,
    num_head_channels: int,
    norm_num_groups: int = 32,
    patch_size: int = 1,
    image_channels: int = 1,
    condition_channels: int = 1,
) -> nn.Module:
    """Return a network of `pig_monai.generators`, of whatever kind, with the U-Net levels of `DiffusionModelUNet`.

    W and H of its images must be divisible by patch_size · 2 ** (len(channels) - 1). The arguments are kept as
    ``network.spec``, so that a checkpoint can say how to build it again.

    Args:
        name: ``concat``, ``controlnet`` or ``maisi``.
        channels: of each level, from full resolution down; divisible by ``norm_num_groups``.
        attention_levels: which levels have self-attention (the middle always has).
        num_res_blocks: residual blocks a level.
        num_head_channels: channels of an attention head.
        norm_num_groups: groups of the GroupNorm layers.
        patch_size: 1 works on pixels (the paper), p > 1 on p × p patches.
        image_channels: of the noisy image: 1 for a slice, a latent's channels, f² for a mask on a latent's grid.
        condition_channels: of the condition, likewise; 0 for an unconditional net.

    Raises:
        PigError: an unknown name, or arguments that do not fit each other.
    """
    if name not in GENERATORS:
        raise PigError(f"generator is {name!r}", f"give one of {', '.join(GENERATORS)}")
    try:
        arguments: dict[str, Any] = {
            "channels": [int(c) for c in channels],
            "attention_levels": [bool(a) for a in attention_levels],
            "num_res_blocks": int(num_res_blocks),
            "num_head_channels": int(num_head_channels),
            "norm_num_groups": int(norm_num_groups),
            "image_channels": int(image_channels),
            "condition_channels": int(condition_channels),
            "patch_size": int(patch_size),
        }
        network = GENERATORS[name](**arguments)
    except (ValueError, TypeError, ZeroDivisionError) as cause:
        raise PigError(f"network_def: {cause}", "mend channels, attention_levels or num_head_channels") from cause
    network.spec = {"name": name, "arguments": arguments}  # type: ignore[assignment]
    return network


NETWORKS: dict[str, Callable[..., nn.Module]] = {"autoencoder_kl": autoencoder_kl}
"""Networks besides those of `diffusion_network`, by name."""


def build_network(spec: dict[str, Any]) -> nn.Module:
    """Build a network from its ``spec`` ``{"name", "arguments"}``.

    Raises:
        PigError: an unknown name, or arguments that it does not take.
    """
    name, known = spec.get("name"), [*GENERATORS, *NETWORKS]
    if name not in known:
        raise PigError(f"network {name!r} is unknown", f"known are {', '.join(known)}")
    try:
        if name in GENERATORS:
            return diffusion_network(name, **spec["arguments"])
        return NETWORKS[name](**spec["arguments"])
    except TypeError as cause:
        raise PigError(f"network {name}: {cause}", "use weights of this version of pig_monai") from cause


def check_image_size(network: nn.Module, image_size: int, factor: int = 1) -> None:
    """Refuse an image size that the network's levels cannot halve.

    Args:
        network: of `diffusion_network`.
        image_size: pixels a side.
        factor: pixels a side of the grid's cells that the network works on: 1, or a latent's.
    """
    spec: Any = network.spec
    step = factor * spec["arguments"]["patch_size"] * 2 ** (len(spec["arguments"]["channels"]) - 1)
    if image_size % step:
        raise PigError(f"image_size is {image_size}", f"give a multiple of {step} for this network")
