"""Precision, recall, density and coverage: whether slices lie among their nearest neighbours of the other kind.

Around each slice of a sample lies a ball that reaches its k-th nearest neighbour in the same sample; the balls
together are where such slices are (Kynkäänniemi et al., NeurIPS 2019; Naeem et al., ICML 2020).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from pig_monai.metrics.blocks import blocks

NEIGHBOURS = 5


@dataclass(frozen=True)
class Neighbourhoods:
    """How two samples lie among each other.

    Args:
        precision: share of generated slices inside any real ball: are they plausible?
        recall: share of real slices inside any generated ball: could the generator have made them?
        density: mean number of real balls around a generated slice, divided by k; may exceed 1.
        coverage: share of real balls that hold a generated slice: how much of the variety is there? Unlike the
            recall it does not rise when single generated slices lie far out.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def neighbourhoods(
    real: np.ndarray, generated: np.ndarray, k: int = NEIGHBOURS, real_radii: np.ndarray | None = None
) -> Neighbourhoods:
    """Return precision, recall, density and coverage.

    Recall and coverage rise with the number of generated slices: compare them at equal numbers.

    Args:
        real: (n, d), n > k.
        generated: (m, d), m > k.
        k: neighbours that a ball reaches.
        real_radii: `radii` of ``real``, where they are known from another comparison.

    Raises:
        ValueError: a sample of k slices or fewer.
    """
    if min(len(real), len(generated)) <= k:
        raise ValueError(f"{len(real)} and {len(generated)} slices are too few for {k} neighbours")
    across = cdist(real, generated)
    within_real = across <= (radii(real, k) if real_radii is None else real_radii)[:, None]
    within_generated = across <= radii(generated, k)[None]
    return Neighbourhoods(
        precision=float(within_real.any(axis=0).mean()),
        recall=float(within_generated.any(axis=1).mean()),
        density=float(within_real.sum(axis=0).mean() / k),
        coverage=float(within_real.any(axis=1).mean()),
    )


def radii(sample: np.ndarray, k: int = NEIGHBOURS) -> np.ndarray:
    """Return each slice's distance to its k-th nearest neighbour, itself not counted: float (n,).

    Args:
        sample: (n, d), n > k.
        k: which neighbour.
    """
    found = np.empty(len(sample))
    for rows in blocks(len(sample)):
        distances = cdist(sample[rows], sample)
        distances[np.arange(rows.stop - rows.start), np.arange(rows.start, rows.stop)] = np.inf
        found[rows] = np.partition(distances, k - 1, axis=1)[:, k - 1]
    return found
