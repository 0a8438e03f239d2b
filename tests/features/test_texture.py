"""Texture of pictures whose figures are known: flat ones, checkerboards, stripes, ramps."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kurtosis, skew

from pig_monai.features.texture import (
    CELLS,
    GREY_LEVELS,
    OFFSETS,
    ORIENTATIONS,
    PATTERN_LEVELS,
    PROPERTIES,
    co_occurrence,
    directions,
    grey_levels,
    histogram,
    local_patterns,
    moments,
    texture_features,
)

SIDE = 32
X, Y = np.mgrid[:SIDE, :SIDE]
CHECKERBOARD = np.where((X + Y) % 2, 1.0, -1.0).astype(np.float32)
FLAT = np.full((SIDE, SIDE), 0.25, np.float32)
NOISE = np.random.default_rng(0).uniform(-1, 1, (SIDE, 24)).astype(np.float32)


def by_name(image: np.ndarray) -> dict[str, np.ndarray]:
    """Return the co-occurrence properties, by offset."""
    found = co_occurrence(image).reshape(len(PROPERTIES), len(OFFSETS))
    return dict(zip(PROPERTIES, found, strict=True))


def test_a_checkerboards_neighbours_differ_along_the_axes_and_agree_across():
    """At 1 pixel two of four directions pair white with black, 15 levels apart; at 2 pixels none does."""
    found = by_name(CHECKERBOARD)
    top = GREY_LEVELS - 1
    assert found["contrast"] == pytest.approx([top**2 / 2, 0])
    assert found["dissimilarity"] == pytest.approx([top / 2, 0])
    assert found["homogeneity"] == pytest.approx([(1 / (1 + top**2) + 1) / 2, 1])
    assert found["correlation"] == pytest.approx([0, 1])
    np.testing.assert_allclose(found["energy"], [np.sqrt(0.5), np.sqrt(0.5)], atol=2e-3)  # the rims are uneven


def test_co_occurrence_is_counted_as_by_hand():
    levels = grey_levels(NOISE, GREY_LEVELS).astype(int)
    contrasts = []
    for offset in OFFSETS:
        angles = []
        # scikit-image walks the diagonals by rounded sine and cosine
        for angle in (0, np.pi / 4, np.pi / 2, 3 * np.pi / 4):
            step = round(np.sin(angle) * offset), round(np.cos(angle) * offset)
            gaps = [
                (levels[x, y] - levels[x + step[0], y + step[1]]) ** 2
                for x in range(levels.shape[0])
                for y in range(levels.shape[1])
                if 0 <= x + step[0] < levels.shape[0] and 0 <= y + step[1] < levels.shape[1]
            ]
            angles.append(np.mean(gaps))
        contrasts.append(np.mean(angles))
    assert by_name(NOISE)["contrast"] == pytest.approx(contrasts)


def test_a_flat_picture_has_no_texture_and_no_nan():
    assert moments(FLAT).tolist() == [0.25, 0, 0, 0]
    assert histogram(FLAT).tolist() == [0, 0, 0, 0, 0, 1, 0]  # of eight bins the sixth, [0.25, 0.5)
    found = by_name(FLAT)
    assert found["contrast"].tolist() == [0, 0]
    assert found["energy"].tolist() == [1, 1]
    inner = local_patterns(FLAT)
    assert inner.argmax() == 8  # all eight neighbours are as bright as the middle
    assert not directions(FLAT).any()
    assert np.isfinite(texture_features(FLAT[None])).all()


def test_moments_are_scipys():
    values = NOISE.astype(np.float64).ravel()
    expected = [values.mean(), values.std(), skew(values), kurtosis(values)]
    assert moments(NOISE) == pytest.approx(expected)


def test_the_histogram_is_of_equal_bins():
    ramp = np.linspace(-1, 1, 800, endpoint=False).reshape(40, 20)
    assert histogram(ramp) == pytest.approx([1 / 8] * 7)
    assert grey_levels(np.array([-1.0, -0.01, 0, 0.99, 1]), 2).tolist() == [0, 0, 1, 1, 1]


def test_local_patterns_are_counted_as_by_hand():
    """Uniform patterns: the number of brighter neighbours where they lie together, one kind for all others."""
    levels = grey_levels(NOISE, PATTERN_LEVELS).astype(int)
    ring = [(0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1)]
    corners = np.sqrt(0.5)

    def brightness(x: int, y: int, step: tuple[int, int]) -> float:
        """Neighbours lie on a circle: the diagonal ones are interpolated, and outside the picture all is 0."""
        if 0 in step:
            at = (x + step[0], y + step[1])
            inside = 0 <= at[0] < levels.shape[0] and 0 <= at[1] < levels.shape[1]
            return float(levels[at]) if inside else 0.0
        px, py = round(x + corners * step[0], 5), round(y + corners * step[1], 5)
        total = 0.0
        for i in (int(np.floor(px)), int(np.ceil(px))):
            for j in (int(np.floor(py)), int(np.ceil(py))):
                inside = 0 <= i < levels.shape[0] and 0 <= j < levels.shape[1]
                total += (levels[i, j] if inside else 0) * (1 - abs(px - i)) * (1 - abs(py - j))
        return total

    counts = np.zeros(10)
    inner = [(x, y) for x in range(levels.shape[0]) for y in range(levels.shape[1])]
    for x, y in inner:
        brighter = [brightness(x, y, step) - levels[x, y] >= -1e-9 for step in ring]
        changes = sum(a != b for a, b in zip(brighter, brighter[1:] + brighter[:1], strict=True))
        counts[sum(brighter) if changes <= 2 else 9] += 1
    np.testing.assert_allclose(local_patterns(NOISE), counts[:9] / len(inner), atol=2 / len(inner))


def test_stripes_have_one_direction_in_every_cell():
    """Gradients lie along index 0 for stripes across it; the bins begin at index 1's direction."""
    stripes = np.sin(2 * np.pi * X / 8)
    across = directions(stripes).reshape(CELLS, CELLS, ORIENTATIONS)
    along = directions(stripes.T).reshape(CELLS, CELLS, ORIENTATIONS)
    for cell in range(CELLS * CELLS):
        one, other = across.reshape(-1, ORIENTATIONS)[cell], along.reshape(-1, ORIENTATIONS)[cell]
        assert one[ORIENTATIONS // 2] == other[0] == pytest.approx(1, abs=1e-6)
        assert one.sum() == pytest.approx(1, abs=1e-6)


def test_noise_that_no_display_shows_is_no_pattern():
    """A background of −1 with noise of less than a 64th of the range has the patterns of one without."""
    rng = np.random.default_rng(0)
    image = np.where(X > 12, 0.3 + 0.2 * np.sin(X) * np.cos(Y), -1.0)
    noisy = np.where(X > 12, image, -1 + 0.02 * rng.random(image.shape))
    np.testing.assert_array_equal(local_patterns(image), local_patterns(noisy))
    np.testing.assert_array_equal(co_occurrence(image), co_occurrence(noisy))


def test_all_figures_are_there_and_differ_from_picture_to_picture():
    images = np.random.default_rng(0).uniform(-1, 1, (3, SIDE, SIDE)).astype(np.float32)
    found = texture_features(images)
    assert found.shape == (3, 62)
    assert (found.std(axis=0) > 0).sum() > 50
    np.testing.assert_array_equal(found[1], texture_features(images[1:2])[0])
