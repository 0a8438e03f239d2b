"""Weights that describe themselves: ``{"model": state_dict, "meta": plain dict}``.

``meta`` says how to build the network and what it was trained for, so that sampling repeats no definition and
no mismatch goes unnoticed. Only tensors and plain types are read back: a checkpoint cannot run code.

The keys of a diffusion network's meta: ``role`` (guider | generator), ``network`` (name, arguments),
``schedule``, ``prediction``, ``image_size`` (pixels), ``preprocessing`` (of the training slices), ``spacing``
(median, mm at ``image_size``; null where unknown), ``masks`` (areas and numbers of components), ``fold`` (held
out), ``data`` (fingerprint of the training slices), ``origin``, ``iteration``, ``settings`` (of the training) and
``versions``.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai
import torch
from torch import nn

import pig_monai
from pig_monai.diffusion.sampling import Denoiser
from pig_monai.diffusion.schedule import NoiseSchedule
from pig_monai.errors import PigError
from pig_monai.files import atomic_path, sha256
from pig_monai.networks import build_network

ROLES = ("guider", "generator")
REQUIRED_META = (
    "role",
    "network",
    "schedule",
    "prediction",
    "image_size",
    "preprocessing",
    "fold",
    "data",
    "origin",
)
SAME_FOR_A_PAIR = ("schedule", "image_size", "preprocessing", "fold", "data")


def versions() -> dict[str, str]:
    """Return the versions that decide a result."""
    return {
        "pig_monai": pig_monai.__version__,
        "monai": str(monai.__version__),
        "torch": str(torch.__version__),
    }


def save_weights(path: str | Path, state_dict: Mapping[str, torch.Tensor], meta: dict[str, Any]) -> None:
    """Write weights and meta atomically, as contiguous tensors on the CPU."""
    model = {name: value.detach().cpu().contiguous() for name, value in state_dict.items()}
    content = io.BytesIO()  # given a path, torch would write the scratch file's name into the bytes
    torch.save({"model": model, "meta": meta}, content)
    with atomic_path(path) as scratch:
        scratch.write_bytes(content.getvalue())


def load_weights(path: str | Path, role: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read ``(state_dict, meta)`` of the network that plays ``role``.

    Args:
        path: a weights file, or the run folder that holds ``model_<role>.pt``.
        role: ``guider`` or ``generator``.

    Raises:
        PigError: no such file, a torn or foreign one, or one of another role.
    """
    path = weights_path(path, role)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise PigError(f"{role}_ckpt {path} does not exist", f"train one with train_{role}.yaml") from None
    except Exception as cause:  # torch raises many kinds for a torn or foreign file
        raise PigError(
            f"{role}_ckpt {path} cannot be read as weights ({type(cause).__name__})",
            f"name a model_{role}.pt that train_{role}.yaml wrote",
        ) from cause
    if not isinstance(content, dict) or "model" not in content or "meta" not in content:
        raise PigError(
            f"{role}_ckpt {path} does not describe itself",
            f"name a model_{role}.pt that train_{role}.yaml wrote, not a file from checkpoints/",
        )
    meta = content["meta"]
    missing = [key for key in REQUIRED_META if key not in meta] if isinstance(meta, dict) else REQUIRED_META
    if missing:
        raise PigError(
            f"{role}_ckpt {path}: its meta lacks {missing[0]}",
            f"name a model_{role}.pt that train_{role}.yaml wrote",
        )
    if meta["role"] != role:
        raise PigError(f"{role}_ckpt {path} holds a {meta['role']}", f"name a {role}'s weights")
    return content["model"], meta


def weights_path(path: str | Path, role: str) -> Path:
    """Return the weights file: ``path`` itself, or ``model_<role>.pt`` in it where it is a folder."""
    path = Path(path)
    return path / f"model_{role}.pt" if path.is_dir() else path


@dataclass(frozen=True)
class LoadedDenoiser:
    """A frozen network from a checkpoint.

    Args:
        denoiser: ready to predict.
        meta: what the checkpoint says of itself.
        sha256: of the file, for provenance.
    """

    denoiser: Denoiser
    meta: dict[str, Any]
    sha256: str


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
    path = weights_path(path, role)
    state_dict, meta = load_weights(path, role)
    network = build_network(meta["network"])
    try:
        network.load_state_dict(state_dict)
    except RuntimeError as cause:
        raise PigError(
            f"{role}_ckpt {path}: its weights do not fit its own meta", "the file is damaged"
        ) from cause
    network = to_device(network, device).eval().requires_grad_(False)
    schedule = NoiseSchedule(**meta["schedule"])
    denoiser = Denoiser(network, schedule, meta["prediction"], clamp, amp, one_at_a_time)
    return LoadedDenoiser(denoiser, meta, sha256(path))


def weights_hash(path: str | Path | None, role: str) -> str | None:
    """Return the SHA-256 of a weights file, or None for none: what a run's settings keep instead of a path."""
    if path is None:
        return None
    load_weights(path, role)  # a missing or foreign file ends here, with its own words
    return sha256(weights_path(path, role))


def to_device(network: nn.Module, device: torch.device | str) -> nn.Module:
    """Move a network to ``device``, channels last: the layout in which convolutions are fast in bfloat16."""
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def initial_network(
    network: nn.Module, init_ckpt: str | Path | None, role: str, device: torch.device | str
) -> nn.Module:
    """Return ``network`` on ``device`` with the weights to start from: its own, or those of a checkpoint.

    Args:
        network: freshly made.
        init_ckpt: weights of the same network in the same role; None keeps the fresh ones.
        role: ``guider`` or ``generator``.
        device: where to train.

    Raises:
        PigError: the checkpoint holds another network.
    """
    if init_ckpt is not None:
        state_dict, meta = load_weights(init_ckpt, role)
        if meta["network"] != network.spec:
            raise PigError(
                f"init_ckpt {init_ckpt} holds the network {meta['network']} and network_def is {network.spec}",
                "give network_def the checkpoint's arguments",
            )
        network.load_state_dict(state_dict)
        print(f"{role}: starting from {init_ckpt} (iteration {meta['iteration']})", file=sys.stderr)
    return to_device(network, device)


def check_pair(guider: dict[str, Any], generator: dict[str, Any]) -> None:
    """Refuse a guider and a generator that were not trained for each other.

    Raises:
        PigError: names the first difference and both sides of it.
    """
    for key in SAME_FOR_A_PAIR:
        if guider.get(key) != generator.get(key):
            raise PigError(
                f"the guider's {key} is {guider.get(key)} and the generator's is {generator.get(key)}",
                "use a guider and a generator trained on the same slices with the same settings",
            )


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
