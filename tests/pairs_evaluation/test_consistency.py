"""Pair consistency: of real pairs it is the segmenter's own Dice; and which segmenters are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pig_monai.data.folder import read_label, read_slice
from pig_monai.errors import PigError
from pig_monai.evaluation.segmenters import load_segmenter
from pig_monai.files import sha256
from pig_monai.pairs_evaluation.consistency import find_reference
from pig_monai.study.columns import COLUMNS, Pooling
from tests.evaluation.known import boxes, evaluate, make_dataset, write_segmenter
from tests.pairs_evaluation.known import evaluate_pairs, value, write_pairs


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("known") / "dataset")


@pytest.fixture(scope="module")
def copier(tmp_path_factory) -> Path:
    """Weights that predict what is brighter than 0."""
    return write_segmenter(tmp_path_factory.mktemp("copier"), gain=4.0, offset=0.0)


@pytest.fixture(scope="module")
def real_pairs(known, tmp_path_factory) -> Path:
    """The slices of fold 0 with a lesion, as pairs."""
    entries = [e for e in known.entries if e["fold"] == 0 and "label" in e and e.get("lesion", True)]
    pairs = [(read_slice(known.folder / e["image"]), read_label(known.folder / e["label"])) for e in entries]
    return write_pairs(tmp_path_factory.mktemp("pairs") / "real", pairs)


def test_of_real_pairs_it_is_the_segmenters_own_dice(known, copier, real_pairs, tmp_path):
    own = evaluate(known, tmp_path / "own", copier)["measures"]
    found = evaluate_pairs(known.folder, real_pairs, tmp_path / "out", segmenter_ckpt=copier)
    for metric, measure in (("pair_consistency", "dice"), ("pair_consistency_hits", "lesions_hit")):
        for sample in ("generated", "heldout"):
            assert value(found, metric, "segmenter", "mask", sample) == own[measure]["mean"]
    assert 0.1 < own["dice"]["mean"] < 0.9
    # what a study's table shows is there
    measured = {(f["metric"], f["features"], f["region"]) for f in found["figures"]}
    offline = [column for column in COLUMNS if column.key[1] not in ("inception", "dinov2")]
    assert {
        column.key for column in offline if column.pooling != Pooling.P_VALUE
    } <= measured  # too few patients for p
    assert found["figures"][-1]["note"].endswith("fold 0, which the segmenter held out")


def test_masks_that_do_not_fit_their_slices_are_found(known, copier, tmp_path):
    image = np.full((64, 64), -0.5)
    image[boxes((10, 10, 8, 8))] = 1
    image[20:44, 40:44] = -1
    pairs = [(image, boxes((10, 10, 8, 8))), (image, boxes((14, 10, 8, 8))), (image, boxes((40, 40, 8, 8)))]
    found = evaluate_pairs(known.folder, write_pairs(tmp_path / "pairs", pairs), tmp_path / "out",
                           segmenter_ckpt=copier.parent)  # fmt: skip
    assert value(found, "pair_consistency", "segmenter", "mask") == pytest.approx((1 + 0.5 + 0) / 3)
    assert value(found, "pair_consistency_hits", "segmenter", "mask") == pytest.approx(2 / 3)


def test_without_a_segmenter_it_is_left_out_with_a_note(known, real_pairs, tmp_path):
    found = evaluate_pairs(known.folder, real_pairs, tmp_path / "out")
    assert not [f for f in found["figures"] if f["features"] == "segmenter"]
    assert any("whether mask and slice belong together was not measured" in note for note in found["notes"])


def refusal(known, given: Path, folder: Path, **meta: object) -> str:
    weights = write_segmenter(folder / "run", gain=4.0, offset=0.0, **meta)
    with pytest.raises(PigError) as refused:
        evaluate_pairs(known.folder, given, folder / "out", segmenter_ckpt=weights)
    assert not (folder / "out").exists()
    return str(refused.value)


def test_a_segmenter_that_was_trained_on_pairs_is_refused(known, real_pairs, tmp_path):
    line = refusal(known, real_pairs, tmp_path, pairs=12, pairs_folds=[0])
    assert (
        f"segmenter_ckpt {tmp_path / 'run/model.pt'} was trained with 12 pairs; give one trained on real" in line
    )


def test_a_segmenter_that_does_not_say_on_whom_it_was_trained_is_refused(known, real_pairs, tmp_path):
    assert "does not say on which patients" in refusal(known, real_pairs, tmp_path, patients=["unknown"])


def test_a_segmenter_that_saw_its_own_held_out_fold_is_refused(known, real_pairs, tmp_path):
    assert "was trained on 1 of the 3 patients" in refusal(known, real_pairs, tmp_path, patients=["a", "c"])


@pytest.mark.parametrize(
    ("meta", "expected", "note"),
    [
        ({"fold": 1, "patients": ["a", "b", "d"]}, ["trained"], "fold 1, which the segmenter held out"),
        (
            {"fold": 0, "patients": ["z"], "data": "0" * 64},
            ["same", "shifted", "two", "unknown", "trained"],
            "all",
        ),
        ({"fold": -1, "patients": ["a", "b", "c", "d"]}, [], "the segmenter held out nobody"),
        ({"fold": 0, "patients": ["synthetic"]}, ["same", "shifted", "two", "unknown"], "fold 0, which"),
    ],
)
def test_the_reference_is_what_the_segmenter_did_not_see(meta, expected, note, known, tmp_path):
    """Its own fold, whatever the generator held out; all slices for a stranger; none where it saw everybody."""
    own = {"data": sha256(known.folder / "datalist.json")}
    weights = write_segmenter(tmp_path / "run", gain=4.0, offset=0.0, **{**own, **meta})
    found = find_reference(load_segmenter(weights, "cpu"), known.folder)
    assert [Path(entry["image"]).name.removesuffix(".nii.gz") for entry in found.entries] == expected
    assert found.note.startswith(note)
