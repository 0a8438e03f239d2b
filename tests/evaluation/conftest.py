"""A dataset folder and weights whose predictions are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluation.known import Known, make_dataset, write_segmenter


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> Known:
    return make_dataset(tmp_path_factory.mktemp("known") / "dataset")


@pytest.fixture(scope="module")
def copier(tmp_path_factory) -> Path:
    """Weights that predict what is brighter than 0."""
    return write_segmenter(tmp_path_factory.mktemp("copier"), gain=4.0, offset=0.0)
