"""What the benchmarks share: a dataset in memory, a distance between sets of images, a table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pig_monai.data.folder import heldout_entries, training_entries
from pig_monai.data.transforms import load_slices
from pig_monai.metrics.frechet import frechet_distance as distance_of_features
from pig_monai.metrics.projection import fit_projection


def load_dataset(dataset_dir: str, image_size: int, fold: int = -1, held_out: bool = False) -> dict[str, Tensor]:
    """Return the slices trained on when ``fold`` is held out, or those held out: {key: (N, 1, size, size)}."""
    load = load_slices(image_size)
    entries = (heldout_entries if held_out else training_entries)(dataset_dir, fold)
    items: list[Any] = [load(entry) for entry in entries]
    return {key: torch.stack([item[key] for item in items]) for key in ("image", "label")}


def frechet_distance(real: np.ndarray, other: np.ndarray, components: int = 48) -> float:
    """Return the Fréchet distance of two sets in the leading principal components of the real pixels.

    No network's features are involved: it is not an FID.

    Args:
        real: (N, …), flattened.
        other: (M, …), flattened.
        components: how many.
    """
    real, other = real.reshape(len(real), -1), other.reshape(len(other), -1)
    project = fit_projection(real, components)
    return distance_of_features(project(real), project(other))


def print_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a Markdown table."""
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    sys.stdout.flush()
