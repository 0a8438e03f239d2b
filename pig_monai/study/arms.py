"""What segmenters are trained with: real slices in three ways, and real slices with so many pairs of a method."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pig_monai.data.folder import training_entries
from pig_monai.study.methods import Masks, Method
from pig_monai.study.settings import Study

BASELINE = "real"
"""What all others are compared with: real slices with the classical augmentation that every arm has, too."""

LONGER = "real, trained as long as with pairs"
"""The title of the arm that tells what more training steps alone are worth."""

EPOCHS, BATCH = 150, 16
"""Of ``train.yaml``, where a study does not say."""


@dataclass(frozen=True)
class Arm:
    """A row of table 2.

    Args:
        name: of its folder.
        title: for people.
        method: whose pairs; None for real slices alone.
        pairs: how many.
        ids: of ``train.yaml``, by which it differs from the others.
    """

    name: str
    title: str
    method: Method | None = None
    pairs: int = 0
    ids: tuple[tuple[str, Any], ...] = ()


def arms(study: Study, fold: int) -> Iterator[Arm]:
    """Yield the arms of a fold, in the order of the table."""
    yield Arm("real-plain", "real, no augmentation", ids=(("augment", False),))
    yield Arm(BASELINE, "real")
    methods = [method for method in study.chosen if method.masks != Masks.NONE]
    if not methods:
        return
    yield Arm("real-longer", LONGER, ids=_longer(study, fold))
    for method in methods:
        for pairs in sorted(study.num_pairs):
            yield Arm(f"{method.name}-{pairs}", f"real + {pairs} {method.name}", method, pairs)


def _longer(study: Study, fold: int) -> tuple[tuple[str, Any], ...]:
    """Return ids that give at least as many training steps as the arm with the most pairs has.

    Slices that validate are counted among those trained on: their number is train.yaml's to know.
    """
    epochs = int(study.segmentation.get("max_epochs", EPOCHS))
    batch = int(study.segmentation.get("batch_size", BATCH))
    slices = len(training_entries(study.dataset_dir, fold, lesion_free=True)) + max(study.num_pairs)
    steps = epochs * math.ceil(slices / batch)
    return (("max_epochs", steps), ("max_iterations", steps))
