"""Weights that describe themselves: ``{"model": state_dict, "meta": plain dict}``.

``meta`` says how to build the network and what it was trained for, so that sampling repeats no definition and
no mismatch goes unnoticed. Only tensors and plain types are read back: a checkpoint cannot run code.

The keys of a meta: ``role`` (guider | generator | autoencoder), ``network`` (name, arguments), ``image_size``
(pixels), ``preprocessing`` (of the training slices), ``spacing`` (median, mm at ``image_size``; null where
unknown), ``fold`` (held out), ``data`` (fingerprint of the dataset), ``patients`` (digests of those seen, see
`pig_monai.data.patients`; not in checkpoints of former versions), ``origin``, ``iteration``,
``settings`` (of the training) and ``versions``; of a diffusion network also ``schedule``, ``prediction``,
``masks`` (areas and numbers of components), ``unlabelled`` (how many slices nobody labelled; a generator's) and
``space`` (of the latents; null for pixels); of an autoencoder
``latent`` (``factor``, ``channels``, and ``mean`` and ``std`` of each channel). A generator of latents brings its
``autoencoder`` along, a checkpoint within the checkpoint, so that its slices can always be decoded.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import monai
import torch
from torch import nn

import pig_monai
from pig_monai.diffusion.schedule import Prediction, Schedule
from pig_monai.errors import PigError
from pig_monai.files import read_json, save_torch, sha256
from pig_monai.heldout import HeldOut
from pig_monai.partial_weights import take_what_fits
from pig_monai.runs import RECORD, differences
from pig_monai.spaces import space_in_words

REQUIRED_META = ("role", "network", "image_size", "preprocessing", "fold", "data", "origin")
REQUIRED_OF_ROLE = {
    "guider": ("schedule", "prediction"),
    "generator": ("schedule", "prediction"),
    "autoencoder": ("latent",),
}

LEAST_SHARE = 0.1
"""Of a network's parameters that weights must fit to be worth starting from."""


def versions() -> dict[str, str]:
    """Return the versions that decide what is trained or sampled. Pairs are continued with the same ones alone."""
    return {
        "pig_monai": pig_monai.__version__,
        "monai": str(monai.__version__),
        "torch": str(torch.__version__),
    }


def measuring_versions() -> dict[str, str]:
    """Return the versions that decide a measurement."""
    return {**versions(), **{name: metadata.version(name) for name in ("numpy", "scipy", "scikit-image")}}


def save_weights(
    path: str | Path,
    state_dict: Mapping[str, torch.Tensor],
    meta: dict[str, Any],
    autoencoder: dict[str, Any] | None = None,
) -> None:
    """Write weights and meta atomically, as contiguous tensors on the CPU.

    Args:
        path: of the weights file.
        state_dict: of the network.
        meta: see above.
        autoencoder: the content of its checkpoint, for a generator of latents.
    """
    model = {name: value.detach().cpu().contiguous() for name, value in state_dict.items()}
    brought = {} if autoencoder is None else {"autoencoder": autoencoder}
    save_torch(path, {"model": model, "meta": meta, **brought})


def load_weights(
    path: str | Path, role: str, name: str | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read ``(state_dict, meta)`` of the network that plays ``role``: see `load_checkpoint`."""
    content = load_checkpoint(path, role, name)
    return content["model"], content["meta"]


def load_checkpoint(path: str | Path, role: str, name: str | None = None) -> dict[str, Any]:
    """Read a weights file: ``model``, ``meta`` and perhaps ``autoencoder``.

    Args:
        path: a weights file, or the run folder that holds ``model_<role>.pt``.
        role: ``guider``, ``generator`` or ``autoencoder``.
        name: of the id that gave the path, for errors; ``<role>_ckpt`` by default.

    Raises:
        PigError: no such file, a torn or foreign one, one of another role, or one whose weights are no numbers.
    """
    given = f"{name or f'{role}_ckpt'} {path}"
    if Path(path).is_dir():
        path = _weights_in(Path(path), role, given)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise PigError(f"{given} does not exist", f"train one with train_{role}.yaml") from None
    except Exception as cause:  # torch raises many kinds for a torn or foreign file
        raise PigError(
            f"{given} cannot be read as weights ({type(cause).__name__})",
            f"name a model_{role}.pt that train_{role}.yaml wrote",
        ) from cause
    if not isinstance(content, dict) or "model" not in content or "meta" not in content:
        raise PigError(
            f"{given} does not describe itself",
            f"name a model_{role}.pt that train_{role}.yaml wrote, not a file from checkpoints/",
        )
    state_dict, meta = content["model"], content["meta"]
    if not isinstance(meta, dict) or "role" not in meta:
        raise _lacking(given, "role", role)
    if meta["role"] != role:
        raise PigError(f"{given} holds {_a(meta['role'])}", f"name {_a(role)}'s weights")
    missing = next((key for key in (*REQUIRED_META, *REQUIRED_OF_ROLE[role]) if key not in meta), None)
    if missing is not None:
        raise _lacking(given, missing, role)
    broken = next((key for key, value in state_dict.items() if not bool(torch.isfinite(value).all())), None)
    if broken is not None:
        raise PigError(f"{given}: {broken} holds values that are no numbers", "the file is damaged; train anew")
    return content


def _lacking(given: str, key: str, role: str) -> PigError:
    return PigError(f"{given}: its meta lacks {key}", f"name a model_{role}.pt that train_{role}.yaml wrote")


def _a(role: str) -> str:
    return f"{'an' if role[:1] in 'aeiou' else 'a'} {role}"


def weights_path(path: str | Path, role: str) -> Path:
    """Return the weights file: ``path`` itself, or ``model_<role>.pt`` in it where it is a folder."""
    path = Path(path)
    return path / f"model_{role}.pt" if path.is_dir() else path


def _weights_in(folder: Path, role: str, given: str) -> Path:
    """Return the weights file in a folder, or say why there is none."""
    path = weights_path(folder, role)
    if path.exists():
        return path
    record = folder / RECORD
    run = read_json(record, "name a run folder or a weights file") if record.exists() else {}
    workflow = run.get("workflow") if isinstance(run, dict) else None
    if workflow == role:
        raise PigError(
            f"{given} holds no {path.name} yet",
            f"wait for the training's first checkpoint_interval, or train on with train_{role}.yaml",
        )
    if workflow is not None:
        raise PigError(f"{given} is the folder of {_a(workflow)} run", f"name {_a(role)}'s run folder or weights")
    raise PigError(f"{given} holds no {path.name}", f"name the output_dir of train_{role}.yaml, or a weights file")


def weights_hash(path: str | Path | None, role: str, name: str | None = None) -> str | None:
    """Return the SHA-256 of a weights file, or None for none: what a run's settings keep instead of a path.

    Arguments and errors are those of `load_weights`.
    """
    if path is None:
        return None
    load_weights(path, role, name)  # a missing or foreign file ends here, with its own words
    return sha256(weights_path(path, role))


def to_device(network: nn.Module, device: torch.device | str) -> nn.Module:
    """Move a network to ``device``, channels last: the layout in which convolutions are fast in bfloat16."""
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


FRESH_PREDICTION: Prediction = "sample"
"""What networks predict that start from fresh weights and are not told. ε and v contain the noise, which shows in
slices and masks until trainings are long (docs/generators.md has figures)."""


def training_prediction(prediction: str | None, role: str, **ckpts: str | Path | None) -> str:
    """Return what a training's network predicts: what is asked for, or what the weights that it starts from do.

    Args:
        prediction: as given; None where nothing was.
        role: ``guider`` or ``generator``.
        ckpts: by id, weights or run folders to start from; None for none. The first that there is decides.

    Raises:
        PigError: see `load_weights`.
    """
    if prediction is not None:
        return prediction
    for name, ckpt in ckpts.items():
        if ckpt is not None:
            return str(load_weights(ckpt, role, name)[1]["prediction"])
    return FRESH_PREDICTION


def initial_network(
    network: nn.Module,
    init_ckpt: str | Path | None,
    role: str,
    device: torch.device | str,
    held_out: HeldOut,
    prediction: str | None = None,
    schedule: Schedule | None = None,
    space: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return ``network`` on ``device`` with the weights to start from: its own, or those of a checkpoint.

    The checkpoint may be of another image size and of a network with other levels or channels: tensors whose name
    and shape match are taken, the rest stay fresh. What was taken is told on stderr, and so is another space that
    the weights worked in: little but their shapes may fit this one.

    Args:
        network: freshly made.
        init_ckpt: weights or run folder of the same role; None keeps the fresh weights.
        role: ``guider``, ``generator`` or ``autoencoder``.
        device: where to train.
        held_out: by the training.
        prediction: what the training's network predicts; None accepts weights of any prediction.
        schedule: the training's noise schedule; None accepts weights of any.
        space: of the training, as its meta says it; None for pixels, and for an autoencoder.

    Raises:
        PigError: see `load_weights`; the checkpoint was trained for another prediction or noise schedule, or has
            learnt from the held-out slices, or less than a tenth of the parameters match.
    """
    if init_ckpt is not None:
        state_dict, meta = load_weights(init_ckpt, role, "init_ckpt")
        asked = {"prediction": prediction, "schedule": schedule and schedule.to_dict()}
        wanted = {key: value for key, value in asked.items() if value is not None}
        for key, theirs, ours in differences({key: meta[key] for key in wanted}, wanted):
            raise PigError(
                f"init_ckpt {init_ckpt} was trained with {key} = {theirs}, and this training has {ours}",
                "give it the same, or start without init_ckpt",
            )
        held_out.check(f"init_ckpt {init_ckpt}", meta)
        taken = take_what_fits(network, state_dict)
        if taken.share < LEAST_SHARE:
            theirs, ours = _described(meta["network"], network.spec), _described(network.spec, meta["network"])
            raise PigError(
                f"init_ckpt {init_ckpt} holds a {theirs} and network_def is a {ours}: "
                f"{100 * taken.share:.1f} % of the parameters fit",
                "give network_def more of the checkpoint's arguments, or start without init_ckpt",
            )
        known = (f"iteration {meta.get('iteration')}", f"{meta['image_size']} pixels", meta.get("prediction"))
        about = ", ".join(word for word in known if word)
        lines = [f"starting from {weights_path(init_ckpt, role)} ({about})", *taken.lines()]
        theirs, ours = space_in_words(meta.get("space")), space_in_words(space)
        if theirs != ours:
            lines.append(
                f"these weights worked on {theirs}, this training works on {ours}: they may be of little use"
            )
        for line in lines:
            print(f"{role}: {line}", file=sys.stderr)
    return to_device(network, device)


def _described(spec: Any, other: Any) -> str:
    """Name a network and those of its arguments that another one has not."""
    arguments = {k: v for k, v in spec["arguments"].items() if other["arguments"].get(k) != v}
    return f"{spec['name']} with {arguments}"
