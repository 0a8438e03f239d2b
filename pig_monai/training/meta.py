"""What a training says of itself in its weights' meta (see `pig_monai.checkpoint`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import Dataset
from torch import nn

from pig_monai.checkpoint import versions
from pig_monai.data.folder import Entry, has_lesion, read_datalist, stored_size
from pig_monai.data.patients import seen_patients
from pig_monai.data.transforms import load_slices
from pig_monai.denoisers import SAME_FOR_A_PAIR
from pig_monai.diffusion.schedule import Schedule
from pig_monai.mask_features import MaskFeatures, measure_mask
from pig_monai.networks import check_image_size
from pig_monai.spaces import Space


class TrainingMeta:
    """Makes the meta of a diffusion training's weights.

    Args:
        role: ``guider`` or ``generator``.
        network: made by `pig_monai.networks`.
        schedule: the noise schedule.
        prediction: what the network predicts.
        image_size: pixels a side.
        dataset_dir: the dataset folder.
        fold: the fold held out; −1 for none.
        entries: trained on.
        space: where the network works.
        settings: of the training, by id; ``data`` is the fingerprint of the training slices.

    Raises:
        PigError: a dataset that does not say how large its slices are, or an image size that does not fit.
    """

    def __init__(
        self,
        role: str,
        network: nn.Module,
        schedule: Schedule,
        prediction: str,
        image_size: int,
        dataset_dir: str | Path,
        fold: int,
        entries: Sequence[Entry],
        space: Space,
        settings: Mapping[str, Any],
    ) -> None:
        self.role = role
        self.space = space
        self._slices = Dataset([entry for entry in entries if has_lesion(entry)], load_slices(image_size))
        self._described = {
            **describe_training(role, network, image_size, dataset_dir, fold, entries, settings, space.factor),
            "schedule": schedule.to_dict(),
            "prediction": prediction,
            "space": space.to_dict(),
            "unlabelled": sum("label" not in entry for entry in entries),
        }

    def __call__(self, iteration: int) -> dict[str, Any]:
        """Return the meta after ``iteration`` optimiser steps."""
        return {**self._constant, "iteration": iteration}

    @property
    def pair(self) -> dict[str, Any]:
        """What the other network of the pair must have been trained with, too."""
        return {key: self._described[key] for key in SAME_FOR_A_PAIR}

    @cached_property
    def _constant(self) -> dict[str, Any]:
        slices = (self._slices[number] for number in range(len(self._slices)))
        items = ((item["label"][0].numpy() > 0.5, item["image"][0].numpy()) for item in slices)
        return {**self._described, "masks": mask_statistics(items)}


def describe_training(
    role: str,
    network: nn.Module,
    image_size: int,
    dataset_dir: str | Path,
    fold: int,
    entries: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    factor: int = 1,
) -> dict[str, Any]:
    """Return what the meta of any training's weights says (see `pig_monai.checkpoint`).

    Args:
        role: what the network is for.
        network: made by `pig_monai.networks`.
        image_size: pixels a side.
        dataset_dir: the dataset folder.
        fold: the fold held out; −1 for none.
        entries: trained on.
        settings: of the training, by id; ``data`` is the fingerprint of the training slices.
        factor: pixels a side of a position that the network sees.

    Raises:
        PigError: a dataset that does not say how large its slices are, or an image size that does not fit.
    """
    check_image_size(network, image_size, factor)
    datalist = read_datalist(dataset_dir)
    return {
        "role": role,
        "network": network.spec,
        "image_size": image_size,
        "preprocessing": datalist["preprocessing"],
        "spacing": median_spacing(entries, stored_size(dataset_dir), image_size),
        "fold": fold,
        "data": settings["data"],
        "patients": seen_patients(entries, datalist.get("generators", {})),
        "origin": sorted({entry.get("origin", "real") for entry in entries}),
        "settings": dict(settings),
        "versions": versions(),
    }


def mask_statistics(items: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Summarise the training masks: what a plausible generated mask looks like.

    Args:
        items: masks with their slices, bool and float in [−1, 1], (W, H) each.

    Returns:
        ``count``; and ``area``, ``components`` and ``inside_breast`` (see `MaskFeatures`), each as quantiles
        ``{"0.0", "0.01", …, "1.0"}``; the count alone where there is no mask.
    """
    features = [measure_mask(mask, image) for mask, image in items]
    names = [field.name for field in fields(MaskFeatures)] if features else []
    return {"count": len(features), **{name: _quantiles([getattr(f, name) for f in features]) for name in names}}


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    levels = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
    return {str(q): float(v) for q, v in zip(levels, np.quantile(values, levels), strict=True)}


def median_spacing(entries: Sequence[Mapping[str, Any]], stored_size: int, image_size: int) -> list[float] | None:
    """Return the median pixel spacing [x, y] in mm at ``image_size``, or None where no entry knows its own.

    Args:
        entries: of the dataset folder; their ``spacing`` is that of the stored slices.
        stored_size: pixels a side of the stored slices.
        image_size: pixels a side in the training.
    """
    known = [entry["spacing"] for entry in entries if entry.get("spacing")]
    if not known:
        return None
    return [round(float(s), 5) for s in np.median(known, axis=0) * stored_size / image_size]
