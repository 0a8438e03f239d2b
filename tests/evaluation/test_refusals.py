"""What evaluate.yaml refuses: weights and slices that do not fit each other, before anything is written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pig_monai.data.patients import digest
from pig_monai.errors import PigError, find_user_error
from pig_monai.files import sha256
from tests.evaluation.known import SIZE, Known, boxes, evaluate, make_dataset, write_segmenter


def no_json(weights: Path) -> list[str]:
    weights.with_suffix(".json").unlink()
    return [str(weights), "has no model.json beside it"]


def other_weights(weights: Path) -> list[str]:
    state = torch.load(weights)
    torch.save({name: value + 1 for name, value in state.items()}, weights)
    meta = json.loads(weights.with_suffix(".json").read_text())
    return [str(weights), sha256(weights)[:12], str(weights.with_suffix(".json")), meta["weights_sha256"][:12]]


def change(**given: Any) -> Callable[[Path], None]:
    def edit(weights: Path) -> None:
        path = weights.with_suffix(".json")
        path.write_text(json.dumps({**json.loads(path.read_text()), **given}))

    return edit


def other_fold(weights: Path) -> list[str]:
    change(fold=1)(weights)
    return [str(weights), "with fold 1 held out, and fold is 0"]


def no_fold(weights: Path) -> list[str]:
    change(fold=-1)(weights)
    return [str(weights), "with no fold held out, and fold is 0"]


def seen_patient(weights: Path) -> list[str]:
    change(patients=["z", "b", "a"])(weights)
    return [str(weights), "trained on 2 of the 3 patients of fold 0 in", "datalist.json (a …)"]


def pairs_of_other_fold(weights: Path) -> list[str]:
    change(pairs=8, pairs_folds=[0, 2])(weights)
    return [str(weights), "trained on pairs whose generator held out fold 2, and fold is 0"]


def pairs_of_all(weights: Path) -> list[str]:
    change(pairs=8, pairs_folds=[-1])(weights)
    return [str(weights), "trained on pairs whose generator held out no fold, and fold is 0"]


def pairs_of_another_preparation(weights: Path) -> list[str]:
    """The same patients in other folds: fold 0 was held out, but it was not these."""
    generator = {"data": "0" * 64, "patients": [digest(patient) for patient in ("b", "c", "d")]}
    change(pairs=8, pairs_folds=[0], pairs_generators={"g": generator})(weights)
    return [
        str(weights),
        "trained on pairs whose generator saw 2 of the 3 patients of fold 0 in",
        "datalist.json; ",
    ]


def pairs_of_another_key(weights: Path) -> list[str]:
    generator = {"data": "0" * 64, "patients": [digest("e")]}
    change(pairs=8, pairs_folds=[0], pairs_generators={"g": generator})(weights)
    return [
        str(weights),
        "trained on pairs whose generator was trained on another dataset than",
        "datalist.json, or with another key: its fold 0 is not this; train on pairs of a generator that held out "
        "fold 0 of this dataset",
    ]


def pairs_for_the_masks_to_be_found(weights: Path) -> list[str]:
    generators = {"g": {"data": "0" * 64, "patients": [digest("c")]}}
    change(pairs=8, pairs_folds=[0], pairs_generators=generators, pairs_masks_of=["b", "c"])(weights)
    return [str(weights), "trained on pairs made for the masks of 1 of the 3 patients of fold 0 in"]


def unknown_patients(weights: Path) -> list[str]:
    change(patients=["unknown"])(weights)
    return [str(weights), "does not say on which patients"]


def other_key(weights: Path) -> list[str]:
    change(patients=["e", "f"], data="0" * 64)(weights)
    return [
        str(weights),
        "was trained on another dataset than",
        "datalist.json, or with another key: that fold is not",
    ]


def other_network(weights: Path) -> list[str]:
    meta = json.loads(weights.with_suffix(".json").read_text())
    change(network={**meta["network"], "channels": [2, 4]})(weights)
    return [str(weights), "does not fit the UNet of", "model.json", "size mismatch"]


def foreign_class(weights: Path) -> list[str]:
    change(network={"_target_": "os.system", "command": "true"})(weights)
    return ["model.json#network#_target_ is 'os.system'"]


def wrong_arguments(weights: Path) -> list[str]:
    change(network={"_target_": "UNet", "colour": "red"})(weights)
    return ["model.json#network", "colour"]


def generator(weights: Path) -> list[str]:
    change(role="generator")(weights)
    return [str(weights), "holds a generator"]


def half_described(weights: Path) -> list[str]:
    path = weights.with_suffix(".json")
    path.write_text(json.dumps({"role": "segmenter"}))
    return ["model.json#network is missing"]


def no_weights(weights: Path) -> list[str]:
    weights.unlink()
    return [str(weights), "does not exist"]


def torn_weights(weights: Path) -> list[str]:
    weights.write_bytes(weights.read_bytes()[:100])
    return [str(weights), "cannot be read as weights"]


def broken_weights(weights: Path) -> list[str]:
    state = torch.load(weights)
    state["model.2.conv.bias"][1] = math.nan
    torch.save(state, weights)
    change(weights_sha256=sha256(weights))(weights)
    return [str(weights), "model.2.conv.bias holds values that are no numbers"]


def full_state(weights: Path) -> list[str]:
    torch.save({"model": torch.load(weights), "iteration": 3}, weights)
    return [str(weights), "holds no plain weights"]


@pytest.mark.parametrize(
    "spoil",
    [
        no_json, other_weights, other_fold, no_fold, seen_patient, pairs_of_other_fold, pairs_of_all,
        pairs_of_another_preparation, pairs_of_another_key, pairs_for_the_masks_to_be_found,
        unknown_patients, other_key, other_network, foreign_class, wrong_arguments, generator, half_described,
        no_weights, torn_weights, broken_weights, full_state,
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused_before_anything_is_written(spoil, known, tmp_path):
    weights = write_segmenter(tmp_path / "run", gain=4.0, offset=0.0)
    words = spoil(weights)
    with pytest.raises(PigError) as refused:
        evaluate(known, tmp_path / "out", weights)
    for word in words:
        assert word in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_every_network_of_an_ensemble_is_checked(known, copier, tmp_path):
    small = write_segmenter(tmp_path / "small", gain=1.0, offset=0.0, image_size=32)
    with pytest.raises(PigError, match=r"at 64 pixels and .*small.* at 32"):
        evaluate(known, tmp_path / "out", ckpts=[copier, small])
    taught = write_segmenter(tmp_path / "taught", gain=1.0, offset=0.0, patients=["a"])
    with pytest.raises(PigError, match=r"taught.* was trained on 1 of the 3 patients"):
        evaluate(known, tmp_path / "out", ckpts=[copier, taught])
    with pytest.raises(PigError, match="twice"):
        evaluate(known, tmp_path / "out", ckpts=[copier, copier.parent])
    with pytest.raises(PigError, match="ckpt is .* and ckpts is"):
        evaluate(known, tmp_path / "out", copier, ckpts=[copier])


def test_fold_minus_one_refuses_a_patient_that_was_seen(known, copier, tmp_path):
    with pytest.raises(PigError, match=r"was trained on 1 of the 4 patients of fold -1"):
        evaluate(known, tmp_path / "out", copier, fold=-1)


def test_strangers_are_evaluated_with_a_note_and_weights_of_the_very_dataset_without(known, tmp_path):
    stranger = write_segmenter(tmp_path / "other", gain=4.0, offset=0.0, patients=["e"], data="0" * 64)
    notes = evaluate(known, tmp_path / "all", stranger, fold=-1)["notes"]
    assert any("prepared with another key" in note and "cannot be recognised" in note for note in notes)
    data = sha256(known.folder / "datalist.json")  # such a training had pairs alone
    own = write_segmenter(tmp_path / "own", gain=4.0, offset=0.0, patients=["synthetic"], data=data)
    notes = evaluate(known, tmp_path / "fold", own)["notes"]
    assert not any("another key" in note for note in notes)


def test_slices_to_evaluate_must_be_there(copier, tmp_path):
    known = Known(tmp_path / "dataset")
    known.add("generated", "synthetic-0-0", -1, boxes((9, 9, 8, 8)), (1.0, (9, 9, 8, 8)), origin="synthetic")
    known.finish()
    with pytest.raises(PigError, match="has no fold 0; give --fold -1"):
        evaluate(known, tmp_path / "out", copier)
    with pytest.raises(PigError, match="generated slices only"):
        evaluate(known, tmp_path / "out", copier, fold=-1)


def test_a_broken_slice_is_named(copier, tmp_path):
    known = make_dataset(tmp_path / "dataset")
    file = known.folder / "images/shifted.nii.gz"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(RuntimeError) as wrapped:  # by MONAI; the command's hook finds ours inside
        evaluate(known, tmp_path / "out", copier)
    assert f"{file} cannot be read" in str(find_user_error(wrapped.value))
    assert not (tmp_path / "out/metrics.csv").exists()


def test_a_slice_without_a_picture_is_named(copier, tmp_path):
    known = Known(tmp_path / "dataset")
    known.write("flat", "a", 0, np.full((SIZE, SIZE), -1.0), boxes((9, 9, 8, 8)))
    known.add("trained", "c", 1, boxes((10, 10, 8, 8)), (1.0, (10, 10, 8, 8)))
    known.finish()
    with pytest.raises(RuntimeError) as wrapped:
        evaluate(known, tmp_path / "out", copier)
    assert f"{known.folder / 'images/flat.nii.gz'} has one value everywhere" in str(find_user_error(wrapped.value))
