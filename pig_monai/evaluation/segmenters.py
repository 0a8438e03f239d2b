"""Segmenters to evaluate: weights, what they say of themselves, and whether they may be tested on given slices.

`train.yaml` writes plain weights, ``model.pt``, and beside them ``model.json``: ``role``, ``network`` (a class of
MONAI's with its arguments), ``image_size``, ``fold`` (held out), ``patients`` (trained on), ``datalist_sha256``
(``data`` in files of former versions), ``weights_sha256`` …; and of generated slices ``pairs``, their number, and
``pairs_folds``, ``pairs_generators`` and ``pairs_masks_of``, which `PairsTrace` explains.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import monai.networks.nets
import torch
from torch import nn

from pig_monai.errors import PigError
from pig_monai.evaluation.pairs_trace import PairsTrace
from pig_monai.files import read_json, sha256

ROLE = "segmenter"
WEIGHTS = "model.pt"
UNKNOWN = "unknown"
"""The patient of training slices that did not say whose they are, as when MONAI Label trains."""

_KEYS = {"role": str, "network": dict, "image_size": int, "fold": int, "patients": list, "weights_sha256": str}


@dataclass(frozen=True)
class Segmenter:
    """A trained network.

    Args:
        path: of the weights.
        network: in evaluation mode; takes (B, 1, W, H).
        meta: ``model.json``.
        sha256: of the weights' file.
    """

    path: Path
    network: nn.Module
    meta: dict[str, Any]
    sha256: str

    @property
    def image_size(self) -> int:
        """Pixels a side that the network sees."""
        return int(self.meta["image_size"])


def given_weights(ckpt: str | None, ckpts: Sequence[str] | str | None, bundle_root: str | Path) -> list[Path]:
    """Return the weights to evaluate: those of ``ckpt``, of the ensemble ``ckpts``, or the bundle's own.

    Args:
        ckpt: a weights file or the run folder that holds ``model.pt``; None for none.
        ckpts: several of them, also as one text with commas between; None for none.
        bundle_root: whose ``models/model.pt`` is taken where neither is given.

    Raises:
        PigError: both are given, or one twice.
    """
    if ckpt is not None and ckpts is not None:
        raise PigError(f"ckpt is {ckpt} and ckpts is {ckpts}", "give one weights file or a list for an ensemble")
    if ckpts is None:
        given: Sequence[Any] = [ckpt if ckpt is not None else Path(bundle_root) / "models" / WEIGHTS]
    else:
        given = ckpts.strip("[]").split(",") if isinstance(ckpts, str) else ckpts
    paths = [Path(str(path).strip(" '\"")) for path in given]
    paths = [path / WEIGHTS if path.is_dir() else path for path in paths]
    if not paths:
        raise PigError("ckpts is empty", "list the weights of the ensemble, or give ckpt")
    twice = [path for path in paths if paths.count(path) > 1]
    if twice:
        raise PigError(f"ckpts has {twice[0]} twice", "list each network once")
    return paths


def load_segmenter(path: Path, device: torch.device | str) -> Segmenter:
    """Build the network that ``model.json`` describes and give it the weights.

    Raises:
        PigError: a file that is missing, torn or foreign; a ``model.json`` of other weights; weights that do not
            fit the network described.
    """
    state_dict = _read_weights(path)
    meta = read_description(path)
    described = path.with_suffix(".json")
    network = _build(meta["network"], described)
    try:
        network.load_state_dict(state_dict)
    except RuntimeError as cause:
        first = "".join(str(cause).splitlines()[1:2]).strip()
        raise PigError(
            f"ckpt {path} does not fit the {meta['network']['_target_']} of {described} ({first})",
            "keep model.pt and model.json of one training together",
        ) from cause
    return Segmenter(path, network.to(device).eval().requires_grad_(False), meta, meta["weights_sha256"])


def read_description(path: Path) -> dict[str, Any]:
    """Read what ``model.json`` says of the weights beside it, which it must describe.

    Raises:
        PigError: a file that is missing or foreign; a ``model.json`` of other weights.
    """
    if not path.is_file():
        raise _missing(path)
    described = path.with_suffix(".json")
    meta = _read_meta(path, described)
    found = sha256(path)
    if meta["weights_sha256"] != found:
        raise PigError(
            f"ckpt {path} has the SHA-256 {found[:12]}… and {described} describes {meta['weights_sha256'][:12]}…",
            "keep model.pt and model.json of one training together",
        )
    return meta


def _missing(path: Path) -> PigError:
    return PigError(f"ckpt {path} does not exist", "train one with train.yaml")


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    remedy = "name a model.pt that train.yaml wrote"
    try:
        state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise _missing(path) from None
    except Exception as cause:  # torch raises many kinds for a torn or foreign file
        raise PigError(f"ckpt {path} cannot be read as weights ({type(cause).__name__})", remedy) from cause
    tensors = isinstance(state_dict, dict) and all(isinstance(v, torch.Tensor) for v in state_dict.values())
    if not tensors or not state_dict:
        raise PigError(f"ckpt {path} holds no plain weights", remedy)
    broken = next((name for name, value in state_dict.items() if not bool(torch.isfinite(value).all())), None)
    if broken is not None:
        raise PigError(f"ckpt {path}: {broken} holds values that are no numbers", "train anew")
    return dict(state_dict)


def _read_meta(path: Path, described: Path) -> dict[str, Any]:
    remedy = "train.yaml writes it beside the weights: copy both"
    if not described.is_file():
        raise PigError(f"ckpt {path} has no {described.name} beside it", remedy)
    meta = read_json(described, remedy)
    for key, kind in _KEYS.items():
        if not isinstance(meta, dict) or not isinstance(meta.get(key), kind):
            raise PigError(f"{described}#{key} is missing or no {kind.__name__}", remedy)
    if meta["role"] != ROLE:
        raise PigError(f"ckpt {path} holds a {meta['role']}", "name a segmenter's weights")
    return dict(meta)


def _build(spec: dict[str, Any], described: Path) -> nn.Module:
    """Build a network of MONAI's: a description cannot ask for any other class."""
    name = str(spec.get("_target_")).removeprefix("monai.networks.nets.")
    kind = getattr(monai.networks.nets, name, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise PigError(f"{described}#network#_target_ is {name!r}", "name a network of monai.networks.nets")
    try:
        return kind(**{key: value for key, value in spec.items() if key != "_target_"})
    except (TypeError, ValueError) as cause:
        raise PigError(f"{described}#network: {cause}", "keep what train.yaml wrote") from cause


def check_fits(
    segmenter: Segmenter, fold: int, patients: Collection[str], everyone: Collection[str], dataset: Path
) -> None:
    """Refuse a network for slices on which its figures would say nothing.

    Args:
        segmenter: the network.
        fold: that is evaluated; −1 for all slices of data that no network saw.
        patients: whose slices are evaluated.
        everyone: the patients of all folds.
        dataset: their ``datalist.json``, for errors.

    Raises:
        PigError: the network held out another fold, was trained on one of the patients, or does not say on whom;
            or it was trained on pairs that carry the patients (see `PairsTrace.leak`); or on nobody of the
            dataset, of which its fold then is none.
    """
    held_out, ckpt = segmenter.meta["fold"], f"ckpt {segmenter.path}"
    if fold not in (-1, held_out):
        trained = "with no fold held out" if held_out == -1 else f"with fold {held_out} held out"
        raise PigError(
            f"{ckpt} was trained {trained}, and fold is {fold}", f"give weights that held out fold {fold}"
        )
    leak = PairsTrace.of_segmenter(segmenter.meta).leak(fold, patients, everyone, dataset)
    if leak is not None:
        raise PigError(f"{ckpt} was trained on pairs {leak}", honest_pairs(fold))
    trained_on = set(map(str, segmenter.meta["patients"]))
    if UNKNOWN in trained_on:
        raise PigError(
            f"{ckpt} does not say on which patients it was trained", "train with train.yaml on a dataset"
        )
    seen = sorted(trained_on & set(patients))
    if seen:
        count = f"{len(seen)} of the {len(set(patients))} patients of fold {fold} in {dataset}"
        raise PigError(
            f"{ckpt} was trained on {count} ({seen[0]} …)", "evaluate on patients that no training had, by --fold"
        )
    if fold != -1 and not trained_on & set(everyone) and not trained_on_list(segmenter, dataset):
        raise PigError(
            f"{ckpt} was trained on another dataset than {dataset}, or with another key: that fold is not this",
            "evaluate on the dataset that it was trained on, or by --fold -1 on patients whom it never saw",
        )


def honest_pairs(fold: int) -> str:
    """Say which pairs may be trained on before a fold is tested."""
    if fold == -1:
        return "evaluate on patients that no training had, that of the pairs' generator included"
    return f"train on pairs of a generator that held out fold {fold} of this dataset: others carry what is tested"


def trained_on_list(segmenter: Segmenter, dataset: Path) -> bool:
    """Whether the network was trained on this very ``datalist.json``."""
    return bool(segmenter.meta.get("datalist_sha256", segmenter.meta.get("data")) == sha256(dataset))


def pairs_are_traced(segmenter: Segmenter, dataset: Path) -> bool:
    """Whether the weights say whom the generators of their pairs, if any, saw of a dataset's ``datalist.json``."""
    return PairsTrace.of_segmenter(segmenter.meta).is_known(dataset)


def check_same_size(segmenters: Sequence[Segmenter]) -> None:
    """Refuse an ensemble whose networks see slices of different sizes."""
    for one, other in pairwise(segmenters):
        if one.image_size != other.image_size:
            raise PigError(
                f"ckpt {one.path} was trained at {one.image_size} pixels and {other.path} at {other.image_size}",
                "an ensemble needs one image_size",
            )
