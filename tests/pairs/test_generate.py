"""The pairs folder with a sampler whose candidates are known: every third mask is empty."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pig_monai.data.folder import read_datalist, read_label, read_slice
from pig_monai.errors import PigError
from pig_monai.pairs import generate
from pig_monai.pairs.generate import generate_pairs
from pig_monai.pairs.sampler import Candidate


class KnownSampler:
    def __init__(self, every: int = 3) -> None:
        self.every = every
        self.seed, self.image_size, self.grid = 5, 8, [(1, 0), (0, -1)]
        self.provenance = {"seed": 5}
        meta = {"spacing": [0.5, 0.25], "preprocessing": {"size": 512}, "origin": ["phantom"]}
        self.generator = SimpleNamespace(meta=meta)
        self.drawn: list[int] = []

    def draw(self, indices: Sequence[int], on_step: Any = None) -> list[Candidate]:
        self.drawn += indices
        return [self.candidate(index) for index in indices]

    def candidate(self, index: int) -> Candidate:
        mask = np.zeros((8, 8), bool)
        mask[index % 8, 2:4] = index % self.every != 0
        return Candidate(index, mask, np.full((8, 8), index / 100, np.float32))


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "_draw_pictures", lambda pairs: None)


def indices(folder: Path) -> list[int]:
    return [entry["index"] for entry in read_datalist(folder)["training"]]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 16])
def test_the_first_accepted_in_index_order(tmp_path, batch_size):
    generate_pairs(KnownSampler(), tmp_path, num_pairs=5, start_index=6, batch_size=batch_size)
    assert indices(tmp_path) == [7, 8, 10, 11, 13]
    report = json.loads((tmp_path / "report.json").read_text())
    counts = {key: report[key] for key in ("requested", "accepted", "rejected", "candidates", "next_index")}
    assert counts == {"requested": 5, "accepted": 5, "rejected": {"empty": 3}, "candidates": 8, "next_index": 14}
    entry = read_datalist(tmp_path)["training"][2]
    assert entry["spacing"] == [0.5, 0.25]
    np.testing.assert_allclose(read_slice(tmp_path / entry["image"]), 0.1, atol=2e-5)
    assert np.array_equal(read_label(tmp_path / entry["label"]), KnownSampler().candidate(10).mask)


def test_more_pairs_continue_and_fewer_change_nothing(tmp_path):
    generate_pairs(KnownSampler(), tmp_path, num_pairs=3, batch_size=4)
    sampler = KnownSampler()
    generate_pairs(sampler, tmp_path, num_pairs=5, batch_size=4)
    assert indices(tmp_path) == [1, 2, 4, 5, 7]
    assert min(sampler.drawn) == 5  # 0 to 4 were judged
    generate_pairs(sampler, tmp_path, num_pairs=2)
    assert indices(tmp_path) == [1, 2, 4, 5, 7]


def test_a_crash_between_datalist_and_report_repeats_that_batch(tmp_path):
    generate_pairs(KnownSampler(), tmp_path, num_pairs=2, batch_size=2)
    before = (tmp_path / "report.json").read_text()
    generate_pairs(KnownSampler(), tmp_path, num_pairs=4, batch_size=2)
    (tmp_path / "report.json").write_text(before)  # the datalist is ahead, as after a kill between the two
    generate_pairs(KnownSampler(), tmp_path, num_pairs=4, batch_size=2)
    assert indices(tmp_path) == [1, 2, 4, 5]
    assert json.loads((tmp_path / "report.json").read_text())["rejected"] == {"empty": 2}


@pytest.mark.parametrize(("min_accepted", "judged"), [(0.1, 32), (0, 512)])
def test_a_sampler_that_makes_nothing_comes_to_an_end(tmp_path, min_accepted, judged):
    with pytest.raises(PigError, match=f"only 0 of {judged} candidates"):
        generate_pairs(KnownSampler(every=1), tmp_path, num_pairs=1, min_accepted=min_accepted)


def test_a_pair_that_was_deleted_is_named(tmp_path):
    generate_pairs(KnownSampler(), tmp_path, num_pairs=2)
    (tmp_path / read_datalist(tmp_path)["training"][0]["image"]).unlink()
    with pytest.raises(PigError, match=r"synthetic-5-000001\.nii\.gz does not exist"):
        generate_pairs(KnownSampler(), tmp_path, num_pairs=4)
