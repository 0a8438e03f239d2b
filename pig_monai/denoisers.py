"""Denoisers from checkpoints: guiders and generators ready to predict, and the space they work in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pig_monai.autoencoder.latents import Autoencoder, load_autoencoder
from pig_monai.checkpoint import load_checkpoint, load_weights, to_device, weights_path
from pig_monai.diffusion.sampling import Denoiser
from pig_monai.diffusion.schedule import Schedule, schedule_from_dict
from pig_monai.errors import PigError
from pig_monai.files import sha256
from pig_monai.generators.controlnet import ControlledUNet
from pig_monai.heldout import HeldOut
from pig_monai.networks import build_network
from pig_monai.runs import differences
from pig_monai.spaces import LatentSpace, PixelSpace, Space, space_in_words

SAME_FOR_A_PAIR = ("schedule", "image_size", "preprocessing", "fold", "data", "space")


@dataclass(frozen=True)
class LoadedDenoiser:
    """A frozen network from a checkpoint.

    Args:
        denoiser: ready to predict.
        meta: what the checkpoint says of itself.
        sha256: of the file, for provenance.
        space: where its slices diffuse; a guider's, which decodes no slices, says pixels whatever it is.
    """

    denoiser: Denoiser
    meta: dict[str, Any]
    sha256: str
    space: Space


def load_denoiser(
    path: str | Path,
    role: str,
    device: torch.device | str,
    clamp: bool = True,
    amp: bool = False,
    one_at_a_time: bool = False,
) -> LoadedDenoiser:
    """Build the network of a checkpoint, ready to predict on ``device``.

    Args:
        path: a weights file or a run folder.
        role: ``guider`` or ``generator``.
        device: where to predict.
        clamp: keep x̂₀ in [−1, 1].
        amp: bfloat16 autocast.
        one_at_a_time: see `Denoiser`.

    Raises:
        PigError: see `load_weights`; or the weights do not fit the network that the meta describes.
    """
    content = load_checkpoint(path, role)
    meta, path = content["meta"], weights_path(path, role)
    network = build_network(meta["network"])
    try:
        network.load_state_dict(content["model"])
    except RuntimeError as cause:
        raise PigError(
            f"{role}_ckpt {path}: its weights do not fit its own meta", "the file is damaged"
        ) from cause
    network = to_device(network, device).eval().requires_grad_(False)
    try:
        schedule = schedule_from_dict(meta["schedule"])
    except TypeError as cause:
        raise PigError(
            f"{role}_ckpt {path}: schedule {meta['schedule']} is unknown",
            "use weights of this version of pig_monai",
        ) from cause
    space = space_of(content, device, amp)
    clamp = clamp and (space.bounded or role == "guider")  # a mask is always in [−1, 1], a latent never
    denoiser = Denoiser(network, schedule, meta["prediction"], clamp, amp, one_at_a_time)
    return LoadedDenoiser(denoiser, meta, sha256(path), space)


def space_of(content: Mapping[str, Any], device: torch.device | str, amp: bool = False) -> Space:
    """Return the space of a generator's checkpoint: its autoencoder's latents, or pixels where it brings none."""
    if "autoencoder" not in content:
        return PixelSpace()
    identity = content["meta"]["space"]["autoencoder_sha256"]
    return LatentSpace(Autoencoder.from_content(content["autoencoder"], device, amp=amp, sha256=identity))


def training_space(
    autoencoder_ckpt: str | Path | None, held_out: HeldOut, device: torch.device | str, amp: bool = False
) -> Space:
    """Return the space that a diffusion training works in.

    Args:
        autoencoder_ckpt: weights or run folder of an autoencoder; None for pixels.
        held_out: by the training.
        device: where to encode.
        amp: bfloat16 autocast.

    Raises:
        PigError: see `load_checkpoint`; or an autoencoder that has learnt from the held-out slices.
    """
    if autoencoder_ckpt is None:
        return PixelSpace()
    autoencoder = load_autoencoder(autoencoder_ckpt, device, amp=amp)
    held_out.check(f"autoencoder_ckpt {autoencoder_ckpt}", autoencoder.meta)
    return LatentSpace(autoencoder)


def check_pair(guider: dict[str, Any], generator: dict[str, Any]) -> None:
    """Refuse a guider and a generator that were not trained for each other.

    Raises:
        PigError: names the first difference and both sides of it.
    """
    for name in SAME_FOR_A_PAIR:
        for key, one, other in differences(_told(guider, name), _told(generator, name), name):
            raise PigError(
                f"the guider's {key} is {one} and the generator's is {other}",
                "use a guider and a generator trained on the same slices with the same settings",
            )


def _told(meta: Mapping[str, Any], key: str) -> Any:
    return space_in_words(meta.get(key)) if key == "space" else meta.get(key)


def frozen_guider(
    guider_ckpt: str | Path | None,
    expected: Mapping[str, Any],
    device: torch.device | str,
    clamp: bool = True,
    amp: bool = False,
) -> Denoiser | None:
    """Return the guider that a generator is trained with, after checking that they will make a pair.

    Args:
        guider_ckpt: weights or run folder; None for no guider.
        expected: what the generator's meta will say, by the keys of `SAME_FOR_A_PAIR`.
        device: where to predict.
        clamp: keep x̂₀ in [−1, 1]; train with what sampling will do.
        amp: bfloat16 autocast.

    Raises:
        PigError: see `load_weights` and `check_pair`.
    """
    if guider_ckpt is None:
        return None
    loaded = load_denoiser(guider_ckpt, "guider", device, clamp=clamp, amp=amp)
    check_pair(loaded.meta, dict(expected))
    return loaded.denoiser


def start_from_base(
    network: nn.Module,
    base_ckpt: str | Path | None,
    init_ckpt: str | Path | None,
    schedule: Schedule,
    prediction: str,
    space: Mapping[str, Any] | None,
    held_out: HeldOut,
    learn_from: str = "lesion",
    mask_dropout: float = 0.0,
) -> nn.Module:
    """Return ``network`` with the unconditional net of a checkpoint, frozen, and a branch that starts from it.

    Args:
        network: a `ControlledUNet`, not yet on its device.
        base_ckpt: weights or run folder of an unconditional generator of the same kind; None changes nothing.
        init_ckpt: of the training, which would replace the base: None.
        schedule: of the training.
        prediction: of the training.
        space: of the training, as its meta says it; None for pixels.
        held_out: by the training.
        learn_from: of the training: ``lesion``. A slice without its mask leaves the branch silent, so that nothing
            would learn from it.
        mask_dropout: of the training: 0, for the same reason.

    Raises:
        PigError: see `load_weights`; settings that a frozen base has no use for; a network without a branch, or a
            base of another kind, schedule or space, or one that has learnt from the held-out slices.
    """
    if base_ckpt is None:
        return network
    if init_ckpt is not None:
        raise PigError(
            "base_ckpt and init_ckpt are both set", "leave init_ckpt out: the branch starts from the base"
        )
    for name, value, only in (("learn_from", learn_from, "lesion"), ("mask_dropout", mask_dropout, 0)):
        if value != only:
            raise PigError(
                f"{name} is {value} and base_ckpt is set: the base stays as it is and learns from no slice",
                f"give {name} {only}; guidance works, as the base knows slices without masks",
            )
    spec: Any = network.spec
    if not isinstance(network, ControlledUNet) or network.control is None:
        raise PigError(
            f"base_ckpt is set, and this {spec['name']} network has no branch to train on it",
            "give generator controlnet or maisi, and condition mask or guider; or leave base_ckpt out",
        )
    state_dict, meta = load_weights(base_ckpt, "generator", "base_ckpt")
    theirs = {key: _told(meta, key) for key in ("network", "prediction", "schedule", "space")}
    wanted = {"name": spec["name"], "arguments": {**spec["arguments"], "condition_channels": 0}}
    ours = {
        "network": wanted,
        "prediction": prediction,
        "schedule": schedule.to_dict(),
        "space": space_in_words(space),
    }
    for key, one, other in differences(theirs, ours):
        raise PigError(
            f"base_ckpt {base_ckpt}: its {key} is {one}, and this training needs {other}",
            "train the base with the same settings and condition none",
        )
    held_out.check(f"base_ckpt {base_ckpt}", meta)
    network.load_state_dict(state_dict, strict=False)  # all of the base; the branch keeps its fresh weights
    network.start_branch()
    network.unet.requires_grad_(False)
    return network
