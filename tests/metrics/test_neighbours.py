"""Precision, recall, density and coverage against loops, and on a line where they can be counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pig_monai.metrics.neighbours import neighbourhoods, radii


def brute(real: np.ndarray, generated: np.ndarray, k: int) -> dict[str, float]:
    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.sqrt(((a - b) ** 2).sum()))

    def radius(sample: np.ndarray, i: int) -> float:
        return sorted(distance(sample[i], sample[j]) for j in range(len(sample)) if j != i)[k - 1]

    balls = [radius(real, i) for i in range(len(real))]
    made = [radius(generated, j) for j in range(len(generated))]
    inside = [[distance(r, g) <= balls[i] for g in generated] for i, r in enumerate(real)]
    around = [[distance(r, g) <= made[j] for j, g in enumerate(generated)] for r in real]
    return {
        "precision": float(np.mean([any(row[j] for row in inside) for j in range(len(generated))])),
        "recall": float(np.mean([any(row) for row in around])),
        "density": float(np.sum(inside) / (k * len(generated))),
        "coverage": float(np.mean([any(row) for row in inside])),
    }


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [1, 3, 5])
def test_they_are_their_definitions(seed, k):
    rng = np.random.default_rng(seed)
    real, generated = rng.standard_normal((14, 3)), 0.4 * seed + rng.standard_normal((11, 3))
    found = neighbourhoods(real, generated, k)
    assert vars(found) == pytest.approx(brute(real, generated, k))


def test_many_slices_are_looked_at_in_blocks():
    """On a line of equal steps, in any order, the fourth neighbour is two steps away, or more at the ends."""
    places = np.random.default_rng(0).permutation(2100)
    found = radii(places[:, None].astype(float), 4)
    ends = np.minimum(places, 2099 - places)
    assert found.tolist() == np.maximum(4 - ends, 2).tolist()
    rng = np.random.default_rng(1)
    real, generated = rng.standard_normal((40, 2)), rng.standard_normal((30, 2))
    assert neighbourhoods(real, generated, 4, radii(real, 4)) == neighbourhoods(real, generated, 4)


def test_on_a_line_they_can_be_counted():
    """Real at 0, 1, 2, 10; nearest neighbours at 1, 1, 1, 8. Generated at 0.5, 3, 30, 31; at 2.5, 2.5, 1, 1."""
    real, generated = np.array([[0.0], [1], [2], [10]]), np.array([[0.5], [3], [30], [31]])
    found = neighbourhoods(real, generated, k=1)
    assert found.precision == 2 / 4  # 0.5 and 3
    assert found.recall == 3 / 4  # all but 10
    assert found.density == (2 + 2) / 4  # 0.5 lies in the balls of 0 and 1, 3 in those of 2 and 10
    assert found.coverage == 4 / 4


def test_a_generator_of_one_slice_is_precise_and_covers_little():
    rng = np.random.default_rng(0)
    real = rng.standard_normal((200, 2))
    same = real[7] + 1e-3 * rng.standard_normal((100, 2))
    found = neighbourhoods(real, same)
    assert found.precision == 1
    assert found.coverage < 0.1
    assert found.recall < 0.1


def test_as_many_neighbours_as_slices_are_refused():
    with pytest.raises(ValueError, match="5 and 9 slices are too few for 5"):
        neighbourhoods(np.zeros((5, 2)), np.zeros((9, 2)), 5)


def test_torch_fidelity_says_the_same():
    try:
        from torch_fidelity.metric_prc import prc_features_to_metric
    except Exception as cause:  # torchvision beside another torch raises RuntimeError
        pytest.skip(f"torch-fidelity cannot be imported: {cause}")
    rng = np.random.default_rng(0)
    real, generated = rng.standard_normal((60, 5)), 0.6 + rng.standard_normal((50, 5))
    theirs = prc_features_to_metric(
        torch.from_numpy(generated), torch.from_numpy(real), prc_neighborhood=3, verbose=False
    )
    found = neighbourhoods(real, generated, 3)
    assert (found.precision, found.recall) == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-6)
