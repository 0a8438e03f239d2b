"""The report's charts of masks that are all but alike."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest

from pig_monai.features.shape import STATISTICS
from pig_monai.pairs_evaluation.report import BINS, _mask_charts


@pytest.mark.parametrize("lowest", [0.9996, 0.99, 1.0])
def test_masks_that_lie_nearly_all_inside_the_breast_have_bins_of_one_width(lowest: float) -> None:
    shares = np.linspace(lowest, 1, 5)
    sample = SimpleNamespace(statistics={name: shares for name in STATISTICS})
    chart = _mask_charts(SimpleNamespace(training=sample, generated=sample))[-1]  # type: ignore[arg-type]
    points = re.findall(r"points='([^']+)' fill='#", chart)[0].split()
    places = np.array([float(point.split(",")[0]) for point in points[1:-1]])
    np.testing.assert_allclose(places[1::2] - places[::2], (440 - 60 - 10) / BINS, atol=0.11)
