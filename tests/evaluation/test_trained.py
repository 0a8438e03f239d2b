"""What train.yaml writes is what evaluate.yaml reads."""

from __future__ import annotations

import json

import pytest

from pig_monai.data.folder import heldout_entries
from tests.conftest import last_line, run_bundle


def test_a_trained_segmenter_is_evaluated_on_its_own_fold_alone(phantom_dataset, tmp_path):
    common = {"dataset_dir": phantom_dataset, "device": "cpu"}
    trained = {"fold": 1, "image_size": 32, "max_epochs": 2, "output_dir": tmp_path / "run", **common}
    training = run_bundle("training", "configs/train.yaml", **trained)
    assert training.returncode == 0, training.stderr
    given = {**common, "ckpt": tmp_path / "run"}
    result = run_bundle("evaluate", "configs/evaluate.yaml", fold=1, output_dir=tmp_path / "out", **given)
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    meta = json.loads((tmp_path / "run/model.json").read_text())
    entries = heldout_entries(phantom_dataset, 1, lesion_free=True)
    assert summary["counts"]["slices"] == len(entries)
    assert summary["counts"]["patients"] == len({entry["patient"] for entry in entries})
    assert summary["weights"][0]["sha256"] == meta["weights_sha256"]
    assert any("flatter" in note for note in summary["notes"])
    # the training measured the same slices on the network's grid: nearly the same figure
    assert summary["measures"]["dice"]["mean"] == pytest.approx(meta["val_mean_dice"], abs=0.05)
    other = run_bundle("evaluate", "configs/evaluate.yaml", fold=0, output_dir=tmp_path / "other", **given)
    assert last_line(other).endswith("with fold 1 held out, and fold is 0; give weights that held out fold 0")
