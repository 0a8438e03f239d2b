"""The kernel distance against its definition, written as loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pig_monai.metrics.kernel import inner_similarity, kernel_distance, kernel_spread

RNG = np.random.default_rng(0)
ONE, OTHER = RNG.standard_normal((9, 4)), 0.5 + RNG.standard_normal((7, 4))


def by_loops(one: np.ndarray, other: np.ndarray) -> float:
    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (sum(a * b for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3

    def within(sample: np.ndarray) -> float:
        return float(np.mean([kernel(x, y) for x, y in itertools.permutations(sample, 2)]))

    across = np.mean([kernel(x, y) for x in one for y in other])
    return within(one) + within(other) - 2 * float(across)


def test_it_is_its_definition():
    assert kernel_distance(ONE, OTHER) == pytest.approx(by_loops(ONE, OTHER), rel=1e-12)


def test_it_is_unbiased():
    """Over many draws from one distribution the mean is 0, whatever the sizes; biased estimates are far above."""
    rng = np.random.default_rng(1)
    draws = [kernel_distance(rng.standard_normal((12, 3)), rng.standard_normal((20, 3))) for _ in range(600)]
    error = np.std(draws) / np.sqrt(len(draws))
    assert abs(np.mean(draws)) < 3.5 * error
    assert error < 0.05


def test_the_spread_is_that_of_subsets_and_follows_the_seed():
    sd, subset = kernel_spread(ONE, OTHER, seed=3, subsets=50)
    rng = np.random.default_rng(3)
    expected = []
    for _ in range(50):
        a, b = rng.choice(9, 3, replace=False), rng.choice(7, 3, replace=False)
        expected.append(by_loops(ONE[a], OTHER[b]))
    assert subset == 3
    assert sd == pytest.approx(np.std(expected, ddof=1))
    assert kernel_spread(ONE, OTHER, seed=4, subsets=50)[0] != sd


def test_many_slices_are_summed_in_blocks():
    """Of two thousand, more than a block has, as of one whole matrix; and with what is known of them already."""
    rng = np.random.default_rng(2)
    many, few = rng.standard_normal((2100, 3)), 0.5 + rng.standard_normal((1030, 3))
    own, across, other = ((a @ b.T / 3 + 1) ** 3 for a, b in ((many, many), (many, few), (few, few)))
    np.fill_diagonal(own, 0)
    np.fill_diagonal(other, 0)
    expected = own.sum() / (2100 * 2099) + other.sum() / (1030 * 1029) - 2 * across.mean()
    assert kernel_distance(many, few) == pytest.approx(expected, rel=1e-9)
    assert kernel_distance(many, few, inner_similarity(many)) == kernel_distance(many, few)


def test_torch_fidelity_says_the_same():
    try:
        from torch_fidelity.metric_kid import kernel_mmd
    except Exception as cause:  # torchvision beside another torch raises RuntimeError
        pytest.skip(f"torch-fidelity cannot be imported: {cause}")
    assert kernel_distance(ONE[:7], OTHER) == pytest.approx(kernel_mmd(ONE[:7], OTHER), abs=1e-6)
