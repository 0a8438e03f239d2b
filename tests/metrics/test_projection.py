"""Projections against SciPy's eigenvectors and against what must not change."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from pig_monai.metrics.projection import fit_projection

RNG = np.random.default_rng(0)
REAL = RNG.standard_normal((40, 6)) * [5, 4, 3, 0.3, 0.2, 0.1] @ RNG.standard_normal((6, 6)) + 7


def test_the_leading_components_are_the_covariances_eigenvectors():
    project = fit_projection(REAL, 3)
    values, vectors = np.linalg.eigh(np.cov(REAL, rowvar=False))
    others = RNG.standard_normal((9, 6))
    expected = (others - REAL.mean(axis=0)) @ vectors[:, ::-1][:, :3]
    np.testing.assert_allclose(np.abs(project(others)), np.abs(expected), rtol=1e-8)
    assert project.explained == pytest.approx(values[::-1][:3].sum() / values.sum())
    assert project.reduced
    assert project.dimensions == 3


def test_all_features_keep_their_distances():
    project = fit_projection(REAL, 6)
    np.testing.assert_allclose(pdist(project(REAL)), pdist(REAL))
    assert not project.reduced
    assert project.explained == 1


def test_standardised_features_have_unit_variance_but_constant_ones_keep_their_unit():
    real = np.column_stack([REAL[:, :2] * [1, 1000], np.full(40, 3.0)])
    found = fit_projection(real, None, standardise=True)(real + np.array([0, 0, 2]))
    np.testing.assert_allclose(found.std(axis=0, ddof=1), [1, 1, 0], atol=1e-12)
    np.testing.assert_allclose(found[:, 2], 2)


def test_more_components_than_slices_can_have_are_those_that_there_are():
    few = REAL[:4]
    assert fit_projection(few, 5)(few).shape == (4, 4)
    assert fit_projection(np.ones((5, 3)), 2).explained == 1
