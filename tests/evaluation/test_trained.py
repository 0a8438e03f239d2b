"""What train.yaml writes is what evaluate.yaml reads, and what it measures is what inference.yaml gives."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np

from pig_monai.data.folder import heldout_entries, read_label
from tests.conftest import last_line, run_bundle


def test_a_trained_segmenter_is_evaluated_on_its_own_fold_alone(phantom_dataset, tmp_path):
    common = {"dataset_dir": phantom_dataset, "device": "cpu"}
    trained = {"fold": 1, "image_size": 32, "max_epochs": 2, "output_dir": tmp_path / "run", **common}
    training = run_bundle("training", "configs/train.yaml", **trained)
    assert training.returncode == 0, training.stderr
    given, saving = {**common, "ckpt": tmp_path / "run"}, {"save_predictions": "true"}
    network = {**common, "ckpt": tmp_path / "run/model.pt", "image_size": 32}
    result = run_bundle(
        "evaluate", "configs/evaluate.yaml", fold=1, output_dir=tmp_path / "out", **saving, **given
    )
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    meta = json.loads((tmp_path / "run/model.json").read_text())
    entries = heldout_entries(phantom_dataset, 1, lesion_free=True)
    assert summary["counts"]["slices"] == len(entries)
    assert summary["counts"]["patients"] == len({entry["patient"] for entry in entries})
    assert summary["weights"][0]["sha256"] == meta["weights_sha256"]
    inference = run_bundle("run", "configs/inference.yaml", fold=1, output_dir=tmp_path / "masks", **network)
    assert inference.returncode == 0, inference.stderr
    for entry in entries:
        name = Path(entry["image"]).name
        measured = read_label(tmp_path / "out/predictions" / name)
        given_mask = np.asarray(nib.load(tmp_path / "masks" / name.replace(".nii", "_mask.nii")).dataobj)
        np.testing.assert_array_equal(measured, given_mask.reshape(measured.shape) > 0)
    other = run_bundle("evaluate", "configs/evaluate.yaml", fold=0, output_dir=tmp_path / "other", **given)
    assert last_line(other).endswith("with fold 1 held out, and fold is 0; give weights that held out fold 0")
