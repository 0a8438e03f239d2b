"""Distances from outlines: of a disc by the formula, and whether they know a mask again that was moved."""

from __future__ import annotations

import numpy as np
import pytest

from pig_monai.features.pixels import outline_features
from pig_monai.metrics.memorisation import training_preference


def disc(radius: float, x: float = 31.5, y: float = 31.5, side: int = 64) -> np.ndarray:
    place = np.arange(side)
    return np.hypot(place[:, None] - x, place[None] - y) <= radius


def test_a_disc_is_as_far_from_its_outline_as_the_formula_says():
    """Distances are to the nearest pixel's centre on the other side: half a pixel more than to the outline."""
    (found,) = outline_features(disc(12.0)[None]).reshape(1, 64, 64)
    place = np.arange(64) - 31.5
    formula = 12.0 - np.hypot(place[:, None], place[None])
    assert np.abs(found - formula).max() < 1.0
    assert ((found > 0) == disc(12.0)).all()


def test_a_mask_that_was_moved_by_a_pixel_differs_by_two_at_most():
    here, there = outline_features(np.stack([disc(9.0), disc(9.0, x=32.5)]))
    assert 1.0 <= np.abs(here - there).max() <= 2.0


@pytest.mark.parametrize("seed", range(3))
def test_masks_of_training_patients_are_known_again_when_moved_and_others_are_not(seed):
    rng = np.random.default_rng(seed)

    def drawn(patients: int) -> np.ndarray:
        return np.column_stack([rng.uniform(3, 12, patients), rng.uniform(14, 50, (patients, 2))])

    def features(of: np.ndarray, shift: int = 0) -> np.ndarray:
        return outline_features(np.stack([disc(radius, x + shift, y) for radius, x, y in of]))

    training, heldout, others = drawn(60), drawn(15), drawn(60)
    names = ([f"p{i}" for i in range(60)], [f"h{i}" for i in range(15)])

    def p_value(generated: np.ndarray) -> float:
        return training_preference(generated, features(training), names[0], features(heldout), names[1]).p_value

    assert p_value(features(training, shift=1)) < 0.05
    assert p_value(features(others)) > 0.05
