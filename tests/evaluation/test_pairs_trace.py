"""Pairs and the patients behind them, from the folder of the pairs to whoever tests on those patients."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.bundle import ConfigParser

from pig_monai.data.folder import DATALIST, fingerprint, read_datalist, training_entries
from pig_monai.data.patients import digest, seen_patients
from pig_monai.errors import PigError
from pig_monai.evaluation.cross_validation import CrossValidation
from pig_monai.evaluation.pairs_trace import PairsTrace
from pig_monai.pairs_evaluation.evaluate import PairsEvaluation
from tests.evaluation.known import BUNDLE, Known, boxes, evaluate, write_segmenter
from tests.pairs_evaluation.known import write_pairs

BOX = (10, 10, 8, 8)
FOLDS = {"a": 0, "b": 0, "c": 1, "d": 1}
DEALT_AGAIN = {"a": 0, "b": 1, "c": 1, "d": 0}
GROWN = {**FOLDS, "e": 0, "f": 1}


def prepare(folder: Path, folds: Mapping[str, int]) -> Known:
    known = Known(folder)
    for patient, fold in folds.items():
        known.add(patient, patient, fold, boxes(BOX), (1.0, BOX))
    known.finish()
    return known


def draw(folder: Path, dataset: Path, **more: Any) -> Path:
    """Write pairs of a generator that held out fold 0 of a dataset."""
    seen = seen_patients(training_entries(dataset, 0), {})
    pair = (np.full((64, 64), -0.5), boxes(BOX))
    return write_pairs(folder, [pair] * 3, generator={"data": fingerprint(dataset), "patients": seen}, **more)


def described(dataset: Path, pairs_dir: Path) -> dict[str, Any]:
    """Return what train.yaml writes of pairs into model.json."""
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs/train.yaml")
    parser["dataset_dir"], parser["pairs_dir"], parser["max_pairs"] = str(dataset), str(pairs_dir), 2
    keys = ("pairs", "pairs_folds", "pairs_generators", "pairs_masks_of")
    meta = {key: parser.get_parsed_content(f"meta#{key}") for key in keys}
    plain: dict[str, Any] = json.loads(json.dumps(meta))
    return plain


def cross_validate(dataset: Path, pairs: Path, out: Path) -> CrossValidation:
    training = {"max_epochs": 1, "max_pairs": 2}
    return CrossValidation(BUNDLE, dataset, out, [0], str(pairs), training, "cpu", seed=0)


@pytest.mark.parametrize("mask_of", [{}, {"mask_of": {"patient": "c", "label": "labels/c.nii.gz"}}])
def test_the_configuration_and_the_package_read_the_same(mask_of, tmp_path):
    dataset = prepare(tmp_path / "dataset", FOLDS).folder
    pairs = draw(tmp_path / "pairs", dataset, **mask_of)
    meta = described(dataset, pairs)
    assert meta["pairs"] == 2
    assert meta["pairs_generators"]["g"] == {"data": fingerprint(dataset), "patients": sorted(map(digest, "cd"))}
    assert meta["pairs_masks_of"] == (["c"] if mask_of else [])
    datalist = read_datalist(pairs)
    assert PairsTrace.of_segmenter(meta) == PairsTrace.of_pairs(datalist, datalist["training"][:2])


def test_pairs_that_say_nothing_are_read_as_such(tmp_path):
    dataset = prepare(tmp_path / "dataset", FOLDS).folder
    pairs = write_pairs(tmp_path / "pairs", [(np.full((64, 64), -0.5), boxes(BOX))], fold=None)
    meta = described(dataset, pairs)
    assert (meta["pairs_folds"], meta["pairs_generators"]) == ([], {"unknown": None})
    trace = PairsTrace.of_segmenter(meta)
    assert trace == PairsTrace.of_pairs(read_datalist(pairs), read_datalist(pairs)["training"])
    assert not trace.is_known(dataset / DATALIST)


def test_a_generator_of_another_preparation_of_the_same_patients_is_refused_everywhere(tmp_path):
    """It held out a fold 0, too, of a and d; of the fold 0 that is tested, a and b, it saw b."""
    known = prepare(tmp_path / "dataset", FOLDS)
    pairs = draw(tmp_path / "pairs", prepare(tmp_path / "other", DEALT_AGAIN).folder)
    saw = r"pairs whose generator saw 1 of the 2 patients of fold 0 in .*dataset/datalist\.json; "
    meta = described(known.folder, pairs)
    weights = write_segmenter(tmp_path / "run", gain=4.0, offset=0.0, patients=["c", "d"], **meta)
    with pytest.raises(PigError, match=f"ckpt .* was trained on {saw}train on pairs of a generator that held out"):
        evaluate(known, tmp_path / "out", weights)
    with pytest.raises(
        PigError, match=f"pairs_dir .*pairs holds {saw}train on pairs of a generator that held out"
    ):
        cross_validate(known.folder, pairs, tmp_path / "out")
    with pytest.raises(
        PigError, match=f"pairs_dir .*pairs holds {saw}give the dataset_dir that it was trained on"
    ):
        _ = PairsEvaluation(BUNDLE, known.folder, pairs, tmp_path / "out").real
    assert not (tmp_path / "out").exists()


def test_a_dataset_of_other_patients_or_another_key_has_not_the_generators_fold(tmp_path):
    dataset = prepare(tmp_path / "dataset", FOLDS).folder
    pairs = draw(tmp_path / "pairs", prepare(tmp_path / "other", {"x": 0, "y": 1}).folder)
    for refused in (
        lambda: cross_validate(dataset, pairs, tmp_path / "out"),
        lambda: PairsEvaluation(BUNDLE, dataset, pairs, tmp_path / "out").real,
    ):
        with pytest.raises(
            PigError, match="was trained on another dataset than .*, or with another key: its fold 0"
        ):
            refused()


def test_a_dataset_that_has_grown_since_keeps_its_pairs(tmp_path):
    pairs = draw(tmp_path / "pairs", prepare(tmp_path / "before", FOLDS).folder)
    known = prepare(tmp_path / "dataset", GROWN)
    assert fingerprint(known.folder) != fingerprint(tmp_path / "before")
    meta = described(known.folder, pairs)
    weights = write_segmenter(tmp_path / "run", gain=4.0, offset=0.0, patients=["c", "d", "f"], **meta)
    assert not any("pairs" in note for note in evaluate(known, tmp_path / "out", weights)["notes"])
    cross_validate(known.folder, pairs, tmp_path / "folds")
    evaluation = PairsEvaluation(BUNDLE, known.folder, pairs, tmp_path / "pairs_out")
    training, heldout = evaluation.real
    assert [entry["patient"] for entry in heldout] == ["a", "b", "e"]
    assert evaluation.pairs.trace.unseen({entry["patient"] for entry in training}) == 1  # f


def test_behind_generated_slices_that_are_trained_on_are_those_whom_their_generator_saw():
    real = [{"patient": "a", "origin": "real"}, {"patient": "b"}, {"patient": "a"}]
    generated = {"patient": "synthetic-0-1", "origin": "synthetic", "provenance": {"generator_sha256": "g"}}
    seen = sorted(map(digest, "ab"))
    assert seen_patients(real, {}) == seen
    assert seen_patients([*real, generated], {"g": {"patients": [digest("c")]}}) == sorted([*seen, digest("c")])
    for generators in ({}, {"other": {"patients": []}}, {"g": {"data": "d"}}, {"g": {"patients": None}}):
        assert seen_patients([*real, generated], generators) is None
