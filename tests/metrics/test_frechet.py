"""The Fréchet distance against the closed form, SciPy's root of a matrix, and other libraries."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy
import torch
from scipy.linalg import sqrtm

from pig_monai.metrics.frechet import frechet_distance, frechet_of_moments


def gaussian(n: int, mean: np.ndarray, cov: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return a sample whose own mean and covariance are exactly these."""
    rough = np.random.default_rng(seed).standard_normal((n, len(mean)))
    rough -= rough.mean(axis=0)
    white = rough @ np.linalg.inv(np.linalg.cholesky(np.cov(rough, rowvar=False))).T
    exact: np.ndarray = white @ np.linalg.cholesky(cov).T + mean
    return exact


def covariance(d: int, seed: int) -> np.ndarray:
    factor = np.random.default_rng(seed).standard_normal((d, 2 * d))
    spread: np.ndarray = factor @ factor.T / d
    return spread


def test_independent_features_have_the_closed_form():
    """Of diagonal covariances the distance is Σ (m₁ − m₂)² + (s₁ − s₂)²."""
    means, deviations = np.array([[0.0, 1, -2], [0.5, 1, 2]]), np.array([[1.0, 2, 0.1], [3, 2, 0.4]])
    one, other = (
        gaussian(50, m, np.diag(s**2), i) for i, (m, s) in enumerate(zip(means, deviations, strict=True))
    )
    expected = 0.5**2 + 4**2 + 2**2 + 0.3**2
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-10)


def test_correlated_features_have_that_of_the_rotated_ones():
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((4, 4)))[0]
    deviations = np.array([[1.0, 2, 0.5, 3], [2, 1, 0.5, 1]])
    one, other = (gaussian(40, np.zeros(4), np.diag(s**2), i) @ turn for i, s in enumerate(deviations))
    assert frechet_distance(one, other + 1) == pytest.approx(4 + 1 + 1 + 0 + 4, rel=1e-10)


def by_sqrtm(one: np.ndarray, other: np.ndarray) -> float:
    a, b = (np.cov(sample, rowvar=False) for sample in (one, other))
    gap = one.mean(axis=0) - other.mean(axis=0)
    return float(gap @ gap + np.trace(a + b - 2 * sqrtm(a @ b).real))


@pytest.mark.parametrize("d", [2, 10, 60])
def test_any_gaussians_have_that_of_scipys_root(d):
    one = gaussian(150, np.zeros(d), covariance(d, 1), 1)
    other = gaussian(170, np.linspace(0, 1, d), covariance(d, 2), 2)
    assert frechet_distance(one, other) == pytest.approx(by_sqrtm(one, other), abs=1e-6)


def test_equal_samples_and_singular_covariances_do_not_go_below_zero():
    few = np.random.default_rng(0).standard_normal((6, 20))
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-10)
    line = np.outer(np.arange(5.0), [1, 1])  # all in one direction: s is √2.5 along it, 2 √2.5 of twice the line
    assert frechet_distance(line, 2 * line) == pytest.approx(8 + 2 * 2.5)
    assert frechet_of_moments(np.zeros(2), np.zeros((2, 2)), np.ones(2), np.zeros((2, 2))) == 2


def test_few_slices_of_many_features_have_that_of_their_moments():
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((9, 40)), rng.standard_normal((14, 40)) + 0.3
    moments = (x.mean(axis=0), np.cov(x, rowvar=False), y.mean(axis=0), np.cov(y, rowvar=False))
    assert frechet_distance(x, y) == pytest.approx(frechet_of_moments(*moments), rel=1e-7)


def test_one_feature_is_a_covariance_too():
    one, other = np.array([[0.0], [2.0]]), np.array([[0.0], [4.0]])
    assert frechet_distance(one, other) == pytest.approx(1 + (8**0.5 - 2**0.5) ** 2)


def monais() -> Callable[[np.ndarray, np.ndarray], float]:
    from monai.metrics import FIDMetric

    if hasattr(scipy, "__version__") and tuple(map(int, scipy.__version__.split(".")[:2])) >= (1, 18):
        pytest.skip("MONAI's FIDMetric calls sqrtm(disp=), which SciPy 1.18 no longer has")
    return lambda a, b: float(FIDMetric()(torch.from_numpy(b), torch.from_numpy(a)))


def torch_fidelitys() -> Callable[[np.ndarray, np.ndarray], float]:
    try:
        from torch_fidelity import metric_fid
    except Exception as cause:  # torchvision beside another torch raises RuntimeError
        pytest.skip(f"torch-fidelity cannot be imported: {cause}")
    moments = [metric_fid.fid_features_to_statistics, metric_fid.fid_statistics_to_metric]
    return lambda a, b: moments[1](*(moments[0](torch.from_numpy(f)) for f in (a, b)), False)[
        metric_fid.KEY_METRIC_FID
    ]


def torchmetrics_() -> Callable[[np.ndarray, np.ndarray], float]:
    fid = pytest.importorskip("torchmetrics.image.fid", reason="torchmetrics is not installed")
    return lambda a, b: float(
        fid._compute_fid(*(m for f in (a, b) for m in (torch.from_numpy(f).mean(0), torch.from_numpy(f).T.cov())))
    )


@pytest.mark.parametrize("library", [monais, torch_fidelitys, torchmetrics_])
def test_other_libraries_say_the_same(library):
    compute = library()
    for seed in range(3):
        rng = np.random.default_rng(seed)
        one, other = rng.standard_normal((90, 12)), 1 + rng.standard_normal((70, 12)) @ covariance(12, seed)
        assert frechet_distance(one, other) == pytest.approx(compute(one, other), abs=1e-4)
